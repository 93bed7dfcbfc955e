"""Tensors of a checkpoint -> this rank's layers in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import lcm, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from tgi_server.errors import ModelError
from tgi_server.kernels.formats import Dense, Format, Int8
from tgi_server.kernels.operations import Norm, NormKind
from tgi_server.kernels.plain import HeadOp, LinearOp
from tgi_server.kernels.row import Needs, Operation
from tgi_server.kernels.streamed import STEP_NUMBERS, Streamed
from tgi_server.kernels.table import Choice, best
from tgi_server.layers import spread
from tgi_server.layers.parallel import Group
from tgi_server.layers.spread import Span
from tgi_server.models import mxfp4
from tgi_server.models.checkpoint import Tensors
from tgi_server.models.spec import NormSpec, Source
from tgi_server.models.tensors import found
from tgi_server.quantize.base import PLAIN, QuantizeMethod, Stored, together

Weight = tuple[Format, Tensor | None]
"""A layer's weights, and its bias or none."""


class _Part(NamedTuple):
    """A layer in the making: `read` gives what it stores of outputs [first, last), each of so many `numbers`."""

    outputs: int
    numbers: int
    read: Callable[[Span], Mapping[str, Tensor]]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> _Part:
        """Of what is there already."""

        def read(rows: Span) -> Mapping[str, Tensor]:
            return {suffix: tensor[slice(*rows)].contiguous() for suffix, tensor in tensors.items()}

        outputs, numbers = next(iter(tensors.values())).shape
        return cls(outputs, numbers, read)


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
        """Tensor `name` (or pieces of its first axis) on the device, in `dtype`; `entry` as in `Tensors.read`."""
        return self._whole(self._found(name), 0, pieces, entry, dtype)

    def matrix(self, name: str, part: Span | None = None) -> Tensor:
        """The same in the serving dtype, and only one piece of it."""
        return self.vector(name, None if part is None else [part], self.needs.dtype)

    def table(self, name: str, part: Span) -> Callable[[Tensor], Tensor]:
        """Gives rows of a matrix by their numbers; it has only a part of them, counted from its first."""
        return partial(embedding, weight=self.matrix(name, part))

    def head(self, name: str, part: Span) -> HeadOp:
        """The output head for a part of a matrix's rows. It is never quantised."""
        rows = self._stream(self._found(name), 0, [part], None, self.needs.dtype)
        choice = self.best("head", inputs=rows.sample().inputs)
        layer: HeadOp = choice.run(rows if choice.streams else self.matrix(name, part))
        return layer

    def _whole(
        self, name: str, axis: int, pieces: Sequence[Span] | None, entry: int | None, dtype: torch.dtype | None
    ) -> Tensor:
        """Pieces of a tensor on the device, floats in `dtype` or that of the file."""
        if prod(self._shape(name, entry)) < STEP_NUMBERS:
            return self._placed(self._checkpoint.read(name, axis, pieces, entry), dtype)
        whole = self._stream(name, axis, pieces, entry, dtype).whole()
        assert isinstance(whole, Dense)
        return whole.weight

    def _stream(
        self, name: str, axis: int, pieces: Sequence[Span] | None, entry: int | None, dtype: torch.dtype | None
    ) -> Streamed:
        """The same a few rows at a time."""
        shape = self._shape(name, entry)
        rows = shape[0] if axis or pieces is None else _length(pieces)

        def read(first: int, last: int) -> Dense:
            return Dense(self._placed(self._checkpoint.read(name, axis, pieces, entry, (first, last)), dtype))

        return Streamed(rows, prod(shape[1:]), read)

    def _shape(self, name: str, entry: int | None) -> tuple[int, ...]:
        shape = self._checkpoint.shape(name)
        return shape if entry is None else shape[1:]

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
        return self._built(*self._column(sources, parts))

    def row(self, source: Source, part: Span) -> LinearOp:
        """A layer of whose inputs this rank takes the units `part`; the ranks' outputs are to be summed."""
        return self._built(*self._row(source, part))

    def column_weight(self, sources: Sequence[Source], parts: Sequence[Span]) -> Weight:
        """What `column` multiplies by."""
        weight, bias = self._column(sources, parts)
        return _in_memory(weight), bias

    def row_weight(self, source: Source, part: Span) -> Weight:
        """What `row` multiplies by."""
        weight, bias = self._row(source, part)
        return _in_memory(weight), bias

    def _column(self, sources: Sequence[Source], parts: Sequence[Span]) -> tuple[Format | Streamed, Tensor | None]:
        pieces = [source.pieces(*part) for source, part in zip(sources, parts, strict=True)]
        biases = None
        if any(source.bias for source in sources):
            biases = torch.cat([self._bias(source, piece) for source, piece in zip(sources, pieces, strict=True)])
        return self._weight(sources, pieces, "out"), biases

    def _row(self, source: Source, part: Span) -> tuple[Format | Streamed, Tensor | None]:
        first = self.group.rank == 0  # the sum of all ranks has the bias once
        bias = self._bias(source, None) if source.bias and first else None
        return self._weight([source], [source.pieces(*part)], "in"), bias

    def _weight(self, sources: Sequence[Source], pieces: Sequence[Sequence[Span]], along: str) -> Format | Streamed:
        """This rank's part of layers side by side; a few outputs at a time where each is stored and kept by itself."""
        own = list(zip(sources, pieces, strict=True))
        stored = self._quantize.stored()
        if all(how.axes[0] == "out" and how.numbers[0] == 1 for how in stored.values()):
            parts = [self._part(*one, along) for one in own]
            if isinstance(self._outputs(parts, 0, 1), Dense | Int8):
                outputs, numbers = sum(part.outputs for part in parts), max(part.numbers for part in parts)
                return Streamed(outputs, numbers, partial(self._outputs, parts))
        return self._quantize.read(self._joined([self._tensors(*one, along) for one in own]))

    def _outputs(self, parts: Sequence[_Part], first: int, last: int) -> Any:
        """Outputs [first, last) of layers side by side."""
        tensors, at = [], 0
        for part in parts:
            begin, end = max(first - at, 0), min(last - at, part.outputs)
            if begin < end:
                tensors.append(part.read((begin, end)))
            at += part.outputs
        return self._quantize.read(self._joined(tensors))

    def _part(self, source: Source, pieces: Sequence[Span], along: str) -> _Part:
        """This rank's part of a layer that is stored output by output."""
        if source.transposed and not source.mxfp4:  # then it lies input by input, and is turned in memory
            return _Part.of(self._tensors(source, pieces, along))
        kind = "blocks" if source.mxfp4 else next(iter(self._quantize.stored()))
        shape = self._shape(self._found(source.tensor(kind)), source.expert)
        outputs = _length(pieces) if along == "out" else shape[0]
        return _Part(outputs, prod(shape[1:]), partial(self._tensors, source, pieces, along))

    def _tensors(
        self, source: Source, pieces: Sequence[Span], along: str, rows: Span | None = None
    ) -> dict[str, Tensor]:
        """This rank's part of what a layer stores; where that begins with outputs, of some of these."""
        return {
            suffix: self._cut(source, suffix, stored, along, pieces, rows)
            for suffix, stored in self._quantize.stored().items()
        }

    def dense(self, weight: Tensor, bias: Tensor | None = None) -> LinearOp:
        """A layer that no method quantises, of its part `[out, in]` in the serving dtype."""
        return self._built(Dense(weight), bias)

    def _bias(self, source: Source, pieces: Sequence[Span] | None) -> Tensor:
        if source.bias:
            return self.vector(source.tensor("bias"), pieces, self.needs.dtype, source.expert)
        size = sum(stop - start for start, stop in pieces or ())
        return torch.zeros(size, dtype=self.needs.dtype, device=self.needs.device)

    def _built(self, weight: Format | Streamed, bias: Tensor | None) -> LinearOp:
        sample = weight.sample() if isinstance(weight, Streamed) else weight
        choice = self.best("linear", format=type(sample), inputs=sample.inputs)
        layer: LinearOp = choice.run(weight if choice.streams else _in_memory(weight), bias, self.needs.dtype)
        return layer

    def best(self, operation: Operation, **needs: Any) -> Choice:
        """What computes `operation`, for these needs beside those of the whole model; it is kept, to be told."""
        choice = best(operation, replace(self.needs, **needs))
        if choice not in self.choices:
            self.choices.append(choice)
        return choice

    def _cut(
        self, source: Source, suffix: str, stored: Stored, along: str, pieces: Sequence[Span], rows: Span | None
    ) -> Tensor:
        """This rank's part of one tensor of a layer, its axes as `stored` says."""
        if source.mxfp4:
            return self._placed(self._widened(source, along, pieces, rows), self.needs.dtype)
        name = self._found(source.tensor(suffix))
        turned = source.transposed and suffix == "weight"
        axes = stored.axes[::-1] if turned else stored.axes
        axis, parts = 0, None
        if along in axes:
            axis, numbers = axes.index(along), stored.numbers[stored.axes.index(along)]
            parts = [self._elements(name, piece, numbers) for piece in pieces]
        dtype = None if stored.exact else self.needs.dtype
        if rows is not None:
            return self._placed(self._checkpoint.read(name, axis, parts, source.expert, rows), dtype)
        tensor = self._whole(name, axis, parts, source.expert, dtype)
        return tensor.transpose(0, 1) if turned else tensor

    def _widened(self, source: Source, along: str, pieces: Sequence[Span], rows: Span | None) -> Tensor:
        """This rank's part of weights that are kept as MXFP4, whose blocks may be cut."""
        names = [self._found(source.tensor(kind)) for kind in ("blocks", "scales")]
        if along == "out":
            return mxfp4.widened(*(self._checkpoint.read(name, 0, pieces, source.expert, rows) for name in names))
        parts = []
        for start, stop in pieces:
            blocks = [(start // mxfp4.BLOCK, -(-stop // mxfp4.BLOCK))]
            wide = mxfp4.widened(*(self._checkpoint.read(name, 1, blocks, source.expert, rows) for name in names))
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

    def _joined(self, parts: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Layers side by side; what has no outputs is the same for all of them."""
        if len(parts) == 1:
            return parts[0]
        joined = {}
        for suffix, stored in self._quantize.stored().items():
            tensors = [part[suffix] for part in parts]
            if "out" in stored.axes:
                joined[suffix] = torch.cat(tensors, dim=stored.axes.index("out"))
            elif all(torch.equal(tensors[0], tensor) for tensor in tensors):
                joined[suffix] = tensors[0]
            else:
                raise ModelError(
                    "layers that share their input were quantised in different orders; they cannot be joined"
                )
        return joined

    def _found(self, name: str) -> str:
        """The name under which the checkpoint has it."""
        return found(name, self._prefixes, self._checkpoint) or self._prefixes[0] + name

    def _placed(self, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        """On the device; floats in `dtype`, if one is given."""
        return x.to(self.needs.device, dtype if dtype is not None and x.is_floating_point() else x.dtype)


def _length(pieces: Sequence[Span]) -> int:
    return sum(stop - start for start, stop in pieces)


def _in_memory(weight: Format | Streamed) -> Format:
    return weight.whole() if isinstance(weight, Streamed) else weight
