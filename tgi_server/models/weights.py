"""Safetensors on disk -> this rank's slices in memory. Files are memory-mapped; only the slice is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tgi_server.errors import ModelError
from tgi_server.kernels.formats import Dense, Format
from tgi_server.kernels.operations import Norm, NormKind
from tgi_server.kernels.plain import LinearOp
from tgi_server.kernels.row import Needs, Operation
from tgi_server.kernels.table import Choice, best
from tgi_server.layers import spread
from tgi_server.layers.parallel import Group
from tgi_server.layers.spread import Span
from tgi_server.models import mxfp4
from tgi_server.models.files import weight_files
from tgi_server.models.spec import NormSpec, Source
from tgi_server.models.tensors import found
from tgi_server.quantize.base import PLAIN, QuantizeMethod, Stored, together

Weight = tuple[Format, Tensor | None]
"""A layer's weights, and its bias or none."""
MOST_PIECES = 64
"""Pieces of a tensor that are read one by one; of more, the whole tensor is read and cut."""


class Tensors(Protocol):
    """The tensors of a model by name, as `Checkpoint` has them."""

    def __contains__(self, name: object) -> bool: ...

    def read(self, name: str, axis: int = 0, pieces: Sequence[Span] | None = None, entry: int | None = None) -> Tensor:
        """See `Checkpoint`."""
        ...


class Checkpoint:
    """The tensors of a model directory, by name. `report` hears after each read how much has been read, 0 to 1."""

    def __init__(self, directory: Path, report: Callable[[float], None] = lambda fraction: None) -> None:
        self._directory = directory
        self._files: dict[str, Any] = {}
        self._report = report
        self._seen: set[str] = set()
        for path in weight_files(directory):
            try:
                file: Any = safe_open(str(path), framework="pt")
            except (OSError, SafetensorError) as error:
                raise ModelError(f"cannot read {path}: {error}") from error
            for name in file.keys():  # noqa: SIM118  (not a dict: iterating the file itself is not supported)
                if name in self._files:
                    raise ModelError(f"{directory}: tensor {name} is in more than one file")
                self._files[name] = file

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def read(self, name: str, axis: int = 0, pieces: Sequence[Span] | None = None, entry: int | None = None) -> Tensor:
        """Tensor `name`, or only `pieces` of its `axis` one after the other, in the dtype of the file, on the CPU.

        With `entry` it is this entry of the tensor's first axis that is meant.
        """
        view = self._view(name)
        of_entry = () if entry is None else (entry,)
        shape = view.get_shape()[len(of_entry) :] or [1]
        size = shape[axis]
        if pieces is None:
            pieces = [(0, size)]
        if any(not 0 <= start <= stop <= size for start, stop in pieces):
            raise ModelError(f"{self._directory}: tensor {name} has the shape {view.get_shape()}, more was expected")
        before = (*of_entry, *(slice(None),) * axis)
        if len(pieces) > MOST_PIECES:
            whole: Tensor = view[(*of_entry, *(slice(None),) * len(shape))]
            rows = torch.cat([torch.arange(start, stop) for start, stop in pieces])
            parts = [whole.index_select(axis, rows)]
        else:
            parts = [view[(*before, slice(start, stop))] if view.get_shape() else view[...] for start, stop in pieces]
        self._seen.add(name)
        self._report(len(self._seen) / len(self._files))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)

    def _view(self, name: str) -> Any:
        if name not in self._files:
            raise ModelError(f"{self._directory}: tensor {name} is missing")
        return self._files[name].get_slice(name)


class WeightLoader:
    """Builds layers from a checkpoint for one rank, with one quantisation method for every linear layer.

    Attributes:
        choices: what the table chose for its layers, each once.
    """

    def __init__(
        self, checkpoint: Tensors, prefixes: Sequence[str], quantize: QuantizeMethod, group: Group, needs: Needs
    ) -> None:
        self.group = group
        self.needs = needs
        self.choices: list[Choice] = []
        self._checkpoint = checkpoint
        self._prefixes = prefixes
        self._quantize = quantize

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor."""
        return found(name, self._prefixes, self._checkpoint) is not None

    def raw(self, name: str) -> Tensor:
        """Tensor `name` as the checkpoint has it, on the CPU."""
        return self._checkpoint.read(name)

    def product(self, weight: Tensor, bias: Tensor | None) -> LinearOp:
        """A layer of a weight `[out, in]` in memory; ModelError for a method that does not make its own of it."""
        if set(self._quantize.stored()) != set(PLAIN):
            raise ModelError("quantize: only methods that make their weights while they load work with this model")
        return self._built(self._quantize.read({"weight": weight}), bias)

    def vector(
        self, name: str, pieces: Sequence[Span] | None = None, dtype: torch.dtype = torch.float32,
        entry: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Tensor `name` (or pieces of its first axis) on the device, in `dtype`; `entry` as in `Checkpoint.read`."""
        return self._placed(self._checkpoint.read(self._found(name), 0, pieces, entry), dtype)

    def matrix(self, name: str, part: Span | None = None) -> Tensor:
        """The same in the serving dtype, and only one piece of it."""
        return self.vector(name, None if part is None else [part], self.needs.dtype)

    def norm(self, spec: NormSpec, part: Span | None = None) -> Norm:
        """The weights of a norm, float32; or those of a part of its rows."""
        kind = NormKind[spec.kind.upper()]
        if kind is NormKind.IDENTITY or not spec.weighted:
            return Norm(kind, spec.eps)
        weight = self.vector(f"{spec.name}.weight", None if part is None else [part])
        if spec.offset:
            weight += spec.offset
        return Norm(kind, spec.eps, weight, self.vector(f"{spec.name}.bias") if spec.bias else None)

    def features(self, size: int) -> Span:
        """This rank's part of an MLP's `size` features; see `spread.features`."""
        return spread.features(size, self.group.rank, self.group.world, lcm(*together(self._quantize.stored())))

    def column(self, sources: Sequence[Source], parts: Sequence[Span]) -> LinearOp:
        """One layer from several that share their input; of `sources[i]` this rank takes the units `parts[i]`."""
        return self._built(*self.column_weight(sources, parts))

    def row(self, source: Source, part: Span) -> LinearOp:
        """A layer of whose inputs this rank takes the units `part`; the ranks' outputs are to be summed."""
        return self._built(*self.row_weight(source, part))

    def column_weight(self, sources: Sequence[Source], parts: Sequence[Span]) -> Weight:
        """What `column` multiplies by."""
        pieces = [source.pieces(*part) for source, part in zip(sources, parts, strict=True)]
        tensors = {}
        for suffix, stored in self._quantize.stored().items():
            cuts = [self._cut(s, suffix, stored, "out", p) for s, p in zip(sources, pieces, strict=True)]
            tensors[suffix] = self._joined(cuts, stored)
        biases = None
        if any(source.bias for source in sources):
            biases = torch.cat([self._bias(source, piece) for source, piece in zip(sources, pieces, strict=True)])
        return self._quantize.read(tensors), biases

    def row_weight(self, source: Source, part: Span) -> Weight:
        """What `row` multiplies by."""
        pieces = source.pieces(*part)
        stored = self._quantize.stored()
        tensors = {suffix: self._cut(source, suffix, how, "in", pieces) for suffix, how in stored.items()}
        first = self.group.rank == 0  # the sum of all ranks has the bias once
        bias = self._bias(source, None) if source.bias and first else None
        return self._quantize.read(tensors), bias

    def dense(self, weight: Tensor, bias: Tensor | None = None) -> LinearOp:
        """A layer that no method quantises, of its part `[out, in]` in the serving dtype."""
        return self._built(Dense(weight), bias)

    def _bias(self, source: Source, pieces: Sequence[Span] | None) -> Tensor:
        if source.bias:
            return self.vector(source.tensor("bias"), pieces, self.needs.dtype, source.expert)
        size = sum(stop - start for start, stop in pieces or ())
        return torch.zeros(size, dtype=self.needs.dtype, device=self.needs.device)

    def _built(self, weight: Format, bias: Tensor | None) -> LinearOp:
        choice = self.best("linear", format=type(weight), inputs=weight.inputs)
        layer: LinearOp = choice.run(weight, bias, self.needs.dtype)
        return layer

    def best(self, operation: Operation, **needs: Any) -> Choice:
        """What computes `operation`, for these needs beside those of the whole model; it is kept, to be told."""
        choice = best(operation, replace(self.needs, **needs))
        if choice not in self.choices:
            self.choices.append(choice)
        return choice

    def _cut(self, source: Source, suffix: str, stored: Stored, along: str, pieces: Sequence[Span]) -> Tensor:
        """This rank's part of one tensor of a layer, its axes as `stored` says."""
        if source.mxfp4:
            return self._placed(self._widened(source, along, pieces), self.needs.dtype)
        name = self._found(source.tensor(suffix))
        axes = stored.axes[::-1] if source.transposed and suffix == "weight" else stored.axes
        if along not in axes:
            tensor = self._checkpoint.read(name, entry=source.expert)
        else:
            axis = axes.index(along)
            numbers = stored.numbers[stored.axes.index(along)]
            elements = [self._elements(name, piece, numbers) for piece in pieces]
            tensor = self._checkpoint.read(name, axis, elements, source.expert)
        if axes != stored.axes:
            tensor = tensor.transpose(0, 1).contiguous()
        kept = stored.exact or not tensor.is_floating_point()
        return self._placed(tensor, tensor.dtype if kept else self.needs.dtype)

    def _widened(self, source: Source, along: str, pieces: Sequence[Span]) -> Tensor:
        """This rank's part of weights that are kept as MXFP4, whose blocks may be cut."""
        names = [self._found(source.tensor(kind)) for kind in ("blocks", "scales")]
        if along == "out":
            return mxfp4.widened(*(self._checkpoint.read(name, 0, pieces, source.expert) for name in names))
        parts = []
        for start, stop in pieces:
            blocks = [(start // mxfp4.BLOCK, -(-stop // mxfp4.BLOCK))]
            wide = mxfp4.widened(*(self._checkpoint.read(name, 1, blocks, source.expert) for name in names))
            parts.append(wide[:, start % mxfp4.BLOCK :][:, : stop - start])
        return torch.cat(parts, dim=1)

    @staticmethod
    def _elements(name: str, piece: Span, numbers: int) -> Span:
        """The elements that hold outputs or inputs [start, stop), `numbers` each."""
        start, stop = piece
        if start % numbers or stop % numbers:
            raise ModelError(
                f"tensor {name} keeps {numbers} numbers together; it cannot be cut at {start} and {stop}, "
                "as this number of shards would"
            )
        return start // numbers, stop // numbers

    @staticmethod
    def _joined(parts: Sequence[Tensor], stored: Stored) -> Tensor:
        """Layers side by side; what has no outputs is the same for all of them."""
        if "out" in stored.axes:
            return torch.cat(list(parts), dim=stored.axes.index("out")) if len(parts) > 1 else parts[0]
        if any(not torch.equal(parts[0], part) for part in parts[1:]):
            raise ModelError("layers that share their input were quantised in different orders; they cannot be joined")
        return parts[0]

    def _found(self, name: str) -> str:
        """The name under which the checkpoint has it."""
        return found(name, self._prefixes, self._checkpoint) or self._prefixes[0] + name

    def _placed(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        # .clone() where nothing changes: otherwise the whole file would stay mapped behind a small slice
        moved = x.to(self.needs.device, dtype)
        return moved.clone() if moved.data_ptr() == x.data_ptr() else moved
