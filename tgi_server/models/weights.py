"""Tensors of a checkpoint -> this rank's layers in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import lcm, prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding

from tgi_server.errors import ModelError
from tgi_server.kernels.formats import Dense, Format, alike, joined
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
from tgi_server.models.tensors import found, is_quantised
from tgi_server.quantize.base import OUT, WHOLE, Axis, Cut, Reader, Stored, marks, together
from tgi_server.quantize.none import NoQuantize

Along = Literal["out", "in"]
"""The axis of a layer that the ranks share."""
log = logging.getLogger(__name__)

Weight = tuple[Format, Tensor | None]
"""A layer's weights, and its bias or none."""


class WeightLoader:
    """Builds layers from a checkpoint for one rank, with one quantisation method for the linear layers.

    Attributes:
        choices: what the table chose for its layers, each once.
    """

    def __init__(
        self, checkpoint: Tensors, prefixes: Sequence[str], reader: Reader, group: Group, needs: Needs
    ) -> None:
        self.group = group
        self.needs = needs
        self.choices: list[Choice] = []
        self._checkpoint = checkpoint
        self._prefixes = prefixes
        self._reader = reader

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor."""
        return found(name, self._prefixes, self._checkpoint) is not None

    def raw(self, name: str) -> Tensor:
        """Tensor `name` as the checkpoint has it, on the CPU."""
        return self._checkpoint.read(name)

    def product(self, weight: Tensor, bias: Tensor | None) -> LinearOp:
        """A layer of a weight `[out, in]` in memory, which is quantised by a method that makes its own of it."""
        return self.built(self._served(self._reader.read({"weight": weight})), bias)

    def vector(
        self, name: str, pieces: Sequence[Span] | None = None, dtype: torch.dtype = torch.float32,
        entry: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Tensor `name` (or pieces of its first axis) on the device, in `dtype`; `entry` as in `Tensors.read`."""
        return self._whole(self._found(name), 0, pieces, entry, dtype)

    def matrix(self, name: str, part: Span | None = None) -> Tensor:
        """The same in the serving dtype, and only one piece of it."""
        return self.vector(name, None if part is None else [part], self.needs.dtype)

    def plain(self, source: Source) -> Tensor:
        """The whole weight of a layer that is served as a matrix `[out, in]`, however the checkpoint has it."""
        if not self._is_quantised(source):
            return self.matrix(source.tensor("weight"))
        return self._read(self._reader, source, [(0, source.size)], "out").widened(self.needs.dtype)

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
        return spread.features(size, self.group.rank, self.group.world, lcm(*together(self._reader.stored())))

    def column(self, sources: Sequence[Source], parts: Sequence[Span]) -> LinearOp:
        """One layer from several that share their input; of `sources[i]` this rank takes the units `parts[i]`."""
        return self.built(*self._column(sources, parts))

    def row(self, source: Source, part: Span) -> LinearOp:
        """A layer of whose inputs this rank takes the units `part`; the ranks' outputs are to be summed."""
        return self.built(*self._row(source, part))

    def column_weight(self, sources: Sequence[Source], parts: Sequence[Span]) -> Weight:
        """What `column` multiplies by."""
        weight, bias = self._column(sources, parts)
        return _in_memory(weight), bias

    def row_weight(self, source: Source, part: Span) -> Weight:
        """What `row` multiplies by."""
        weight, bias = self._row(source, part)
        return _in_memory(weight), bias

    def _column(self, sources: Sequence[Source], parts: Sequence[Span]) -> tuple[Streamed, Tensor | None]:
        pieces = [source.pieces(*part) for source, part in zip(sources, parts, strict=True)]
        biases = None
        if any(self._has_bias(source) for source in sources):
            biases = torch.cat([self._bias(source, piece) for source, piece in zip(sources, pieces, strict=True)])
        return self._weight(sources, pieces, "out"), biases

    def _row(self, source: Source, part: Span) -> tuple[Streamed, Tensor | None]:
        first = self.group.rank == 0  # the sum of all ranks has the bias once
        bias = self._bias(source, None) if self._has_bias(source) and first else None
        return self._weight([source], [source.pieces(*part)], "in"), bias

    def _weight(self, sources: Sequence[Source], pieces: Sequence[Sequence[Span]], along: Along) -> Streamed:
        """This rank's part of layers side by side; a few outputs at a time where each is stored and kept by itself."""
        parts = [self._part(source, own, along) for source, own in zip(sources, pieces, strict=True)]
        parts = [part for part in parts if part.outputs] or parts
        if not alike([part.sample() for part in parts]):
            names = ", ".join(source.name for source in sources)
            log.warning("%s share their input, but not their format: they are kept as plain matrices", names)
            parts = [part.widened(self.needs.dtype) for part in parts]
        return Streamed(
            sum(part.outputs for part in parts), max(part.numbers for part in parts), partial(self._outputs, parts)
        )

    def _outputs(self, parts: Sequence[Streamed], first: int, last: int) -> Format:
        """Outputs [first, last) of layers side by side."""
        found, at = [], 0
        for part in parts:
            begin, end = max(first - at, 0), min(last - at, part.outputs)
            if begin < end:
                found.append(part.read(begin, end))
            at += part.outputs
        return joined(found, self.needs.dtype)

    def _part(self, source: Source, pieces: Sequence[Span], along: Along) -> Streamed:
        """This rank's part of a layer."""
        reader = self._reader_of(source)
        stored = reader.stored()
        turned = source.transposed and not source.mxfp4 and not marks(stored)
        by_outputs = all(one.axes[:1] == (OUT,) and not one.optional for one in stored.values())
        if turned or not by_outputs:  # then it lies in another order, and is turned in memory
            return Streamed.of(self._read(reader, source, pieces, along))
        kind = "blocks" if source.mxfp4 else next(iter(stored))
        shape = self._shape(self._found(source.tensor(kind)), source.expert)
        outputs = _length(pieces) if along == "out" else shape[0]

        def read(first: int, last: int) -> Format:
            return self._read(reader, source, pieces, along, (first, last))

        return Streamed(outputs, prod(shape[1:]), read)

    def _reader_of(self, source: Source) -> Reader:
        """What reads a layer: a quantised checkpoint may have left some as they were."""
        return self._reader if self._is_quantised(source) or not marks(self._reader.stored()) else NoQuantize()

    def _is_quantised(self, source: Source) -> bool:
        return is_quantised(source.tensor(""), self._prefixes, self._checkpoint, self._reader.stored())

    def _read(
        self, reader: Reader, source: Source, pieces: Sequence[Span], along: Along, rows: Span | None = None
    ) -> Format:
        """This rank's part of a layer; where all that is stored begins with outputs, some of these."""
        turned = source.transposed and not marks(reader.stored())
        tensors = {
            suffix: self._cut(source, suffix, stored, along, pieces, rows, turned)
            for suffix, stored in reader.stored().items()
            if not stored.optional or self.has(source.tensor(suffix))
        }
        cut = Cut(outputs=tuple(pieces)) if along == "out" else Cut(inputs=tuple(pieces))
        try:
            found = self._served(reader.read(tensors, WHOLE if source.mxfp4 else cut))
            if rows is None:  # a reader takes its word for sizes that only the numbers themselves tell
                _check_size(found, along, _length(pieces))
        except ValueError as error:
            raise ModelError(f"layer {self._found(source.tensor(next(iter(tensors))))}: {error}") from None
        return found

    def _served(self, weight: Format) -> Format:
        """A weight, a plain matrix in the serving dtype."""
        return Dense(weight.widened(self.needs.dtype)) if isinstance(weight, Dense) else weight

    def dense(self, weight: Tensor, bias: Tensor | None = None) -> LinearOp:
        """A layer that no method quantises, of its part `[out, in]` in the serving dtype."""
        return self.built(Dense(weight), bias)

    def _has_bias(self, source: Source) -> bool:
        """Whether a layer has one: tools that quantise give one to layers that had none."""
        return source.bias or (self._is_quantised(source) and self.has(source.tensor("bias")))

    def _bias(self, source: Source, pieces: Sequence[Span] | None) -> Tensor:
        if self._has_bias(source):
            return self.vector(source.tensor("bias"), pieces, self.needs.dtype, source.expert)
        size = sum(stop - start for start, stop in pieces or ())
        return torch.zeros(size, dtype=self.needs.dtype, device=self.needs.device)

    def built(self, weight: Format | Streamed, bias: Tensor | None = None) -> LinearOp:
        """A layer of weights as they are, by what is best for their format."""
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
        self, source: Source, suffix: str, stored: Stored, along: Along, pieces: Sequence[Span], rows: Span | None,
        turned: bool,
    ) -> Tensor:  # fmt: skip
        """This rank's part of one tensor of a layer, its axes as `stored` says, or the other way round in the file."""
        if source.mxfp4:
            return self._placed(self._widened(source, along, pieces, rows), self.needs.dtype)
        name = self._found(source.tensor(suffix))
        axes = stored.axes[::-1] if turned else stored.axes
        number = next((n for n, axis in enumerate(axes) if axis.of == along and axis.cut), None)
        parts = None if number is None else [self._elements(name, number, piece, axes[number]) for piece in pieces]
        axis = number or 0
        dtype = None if stored.exact else self.needs.dtype
        if rows is not None:
            return self._placed(self._checkpoint.read(name, axis, parts, source.expert, rows), dtype)
        tensor = self._whole(name, axis, parts, source.expert, dtype)
        return tensor.transpose(0, 1) if turned else tensor

    def _widened(self, source: Source, along: Along, pieces: Sequence[Span], rows: Span | None) -> Tensor:
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

    def _elements(self, name: str, number: int, piece: Span, axis: Axis) -> Span:
        """The elements along an axis that hold outputs or inputs [start, stop), of which the last may be fewer."""
        (start, stop), numbers, elements = piece, axis.numbers, axis.elements
        last = -(-stop // numbers) * elements
        if start % numbers or (stop % numbers and last != self._checkpoint.shape(name)[number]):
            raise ModelError(
                f"tensor {name} keeps {numbers} numbers together; it cannot be cut at {start} and {stop}, "
                "as this number of shards would"
            )
        return start // numbers * elements, last

    def _found(self, name: str) -> str:
        """The name under which the checkpoint has it."""
        return found(name, self._prefixes, self._checkpoint) or self._prefixes[0] + name

    def _placed(self, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        """On the device; floats in `dtype`, if one is given."""
        return x.to(self.needs.device, dtype if dtype is not None and x.is_floating_point() else x.dtype)


def _check_size(weight: Format, along: Along, wanted: int) -> None:
    size = weight.inputs if along == "in" else Streamed.of(weight).outputs
    if size != wanted:
        raise ValueError(f"it has {size} {along}puts, {wanted} were expected")


def _length(pieces: Sequence[Span]) -> int:
    return sum(stop - start for start, stop in pieces)


def _in_memory(weight: Format | Streamed) -> Format:
    return weight.whole() if isinstance(weight, Streamed) else weight
