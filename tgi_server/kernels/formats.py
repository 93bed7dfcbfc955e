"""The few ways in which a linear layer keeps its weights. A quantisation method reads a checkpoint into one of them.

Each knows its weights as one plain matrix, `widened`, and what it makes of its inputs, `seen`: their product is what
every kernel of the format has to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Dense:
    """`weight [out, in]` in the serving dtype."""

    weight: Tensor

    def widened(self, dtype: torch.dtype) -> Tensor:
        """The matrix `[out, in]` in `dtype`."""
        return self.weight.to(dtype)

    def seen(self, x: Tensor) -> Tensor:
        """Inputs `[rows, in]` as they are multiplied, in their dtype."""
        return x

    @property
    def inputs(self) -> int:
        """Numbers in a row of the layer's input."""
        return self.weight.shape[1]


@dataclass(frozen=True, slots=True)
class Int8:
    """Whole numbers from -127 to 127, `steps [out, in]` int8, and the size of a step, `scale [out]` float32."""

    steps: Tensor
    scale: Tensor

    def widened(self, dtype: torch.dtype) -> Tensor:
        """See `Dense`. With its scale, as float16 holds sums up to 65504."""
        return (self.steps * self.scale.unsqueeze(1)).to(dtype)

    def seen(self, x: Tensor) -> Tensor:
        """See `Dense`."""
        return x

    @property
    def inputs(self) -> int:
        """See `Dense`."""
        return self.steps.shape[1]


def rounded(weight: Tensor) -> Int8:
    """A matrix `[out, in]` rounded to nearest on 255 steps from minus to plus the largest weight of each output."""
    weight = weight.float()
    most = torch.maximum(weight.amax(dim=1), -weight.amin(dim=1))
    scale = (most / 127).clamp_min_(torch.finfo(torch.float32).tiny)
    return Int8((weight / scale.unsqueeze(1)).round_().to(torch.int8), scale)


@dataclass(frozen=True, slots=True)
class Int8Outlier(Int8):
    """The same with inputs of 8 bits too (LLM.int8, arXiv:2208.07339).

    A row of inputs has 255 steps from minus to plus its largest number below `threshold`; the numbers from there on, of
    which there are few, are multiplied as they are. What a row gives does not depend on the rows beside it.
    """

    threshold: float

    def seen(self, x: Tensor) -> Tensor:
        """See `Dense`."""
        ordinary = x.abs() < self.threshold
        return torch.where(ordinary, in_steps(torch.where(ordinary, x, 0).float()).to(x.dtype), x)


@dataclass(frozen=True, slots=True)
class Grouped:
    """Codes of 4 or 8 bits, and for each group of inputs a step: weights are `(number(code) + offset) * scale`.

    The number of a code of 4 bits is `code - 8`, or `book[code]` where there is a book (NF4, arXiv:2305.14314). That of
    one of 8 bits is `code - 128`.

    Attributes:
        codes: uint8. Of 8 bits `[out, in]`; of 4 `[out, in / 2]`, input 2i in the low half of byte i, input 2i + 1 in
            the high one.
        scale: float32 `[out, groups]`.
        offset: float32 `[out, groups]`, of whole numbers, which every type holds exactly; None for 0 everywhere.
        groups: int64 `[in]`, the group of each input. They need not lie side by side (act-order) nor have one size; a
            rank that has a part of the inputs may not see all groups.
        book: float32 `[16]`, or None.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor | None
    groups: Tensor
    book: Tensor | None

    def widened(self, dtype: torch.dtype) -> Tensor:
        """See `Dense`."""
        if self.book is not None:
            numbers = self.book[unpacked(self.codes).long()]
        elif self.bits == 4:
            numbers = unpacked(self.codes).float() - 8
        else:
            numbers = self.codes.float() - 128
        if self.offset is not None:
            numbers = numbers + self.offset[:, self.groups]
        return (numbers * self.scale[:, self.groups]).to(dtype)

    def seen(self, x: Tensor) -> Tensor:
        """See `Dense`."""
        return x

    @property
    def inputs(self) -> int:
        """See `Dense`."""
        return len(self.groups)

    @property
    def bits(self) -> int:
        """Of a code."""
        return 8 * self.codes.shape[1] // len(self.groups)


@dataclass(frozen=True, slots=True)
class GroupedByteInputs(Grouped):
    """The same with inputs of 8 bits too: 255 steps, from minus to plus the largest number, for a row's inputs of each
    group. A book is rounded likewise, to 255 steps from minus to plus its largest number."""

    def widened(self, dtype: torch.dtype) -> Tensor:
        """See `Dense`."""
        if self.book is None:
            return Grouped.widened(self, dtype)
        return Grouped.widened(replace(self, book=in_steps(self.book)), dtype)

    def seen(self, x: Tensor) -> Tensor:
        """See `Dense`."""
        groups = int(self.groups.max()) + 1
        most = x.new_zeros(len(x), groups, dtype=torch.float32)
        most.scatter_reduce_(1, self.groups.expand(len(x), -1), x.float().abs(), "amax")
        return in_steps(x.float(), most[:, self.groups]).to(x.dtype)


Format = Dense | Int8 | Int8Outlier | Grouped | GroupedByteInputs
"""Their tensors have a row for each output, but for those that `SHARED` names."""
SHARED = ("groups", "book")
"""What all outputs have in common."""


def row_tensors(weight: Format) -> dict[str, Tensor]:
    """The tensors of a weight that have a row for each output, by the names of their fields."""
    values = {field.name: getattr(weight, field.name) for field in fields(weight) if field.name not in SHARED}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def joined(weights: Sequence[Format], dtype: torch.dtype) -> Format:
    """Layers with the same inputs as one, its outputs those of the first, of the second, ...

    Layers that do not agree on their format, or on the order of their inputs, become a matrix in `dtype`.
    """
    first, tensors = weights[0], [row_tensors(weight) for weight in weights]
    if len(weights) == 1:
        return first
    if alike(weights):
        together = {name: torch.cat([own[name] for own in tensors]) for name in tensors[0]}
        return replace(first, **together)  # type: ignore[arg-type]
    return Dense(torch.cat([weight.widened(dtype) for weight in weights]))


def alike(weights: Sequence[Format]) -> bool:
    """Whether layers can be joined as they are: all is the same but for the numbers of their outputs."""
    return all(_alike(weights[0], other) for other in weights[1:])


def _alike(one: Format, other: Format) -> bool:
    if type(one) is not type(other) or (mine := row_tensors(one)).keys() != (its := row_tensors(other)).keys():
        return False
    if any(mine[name].shape[1:] != its[name].shape[1:] or mine[name].dtype != its[name].dtype for name in mine):
        return False
    rest = [field.name for field in fields(one) if field.name not in mine]
    return all(_same(getattr(one, name), getattr(other, name)) for name in rest)


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or (not isinstance(one, Tensor) and one == other)


def in_steps(x: Tensor, most: Tensor | None = None) -> Tensor:
    """Float32 numbers rounded to 255 steps from minus to plus the largest of their row, or `most`."""
    most = x.abs().amax(dim=-1, keepdim=True) if most is None else most
    step = (most / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / step).round() * step


def unpacked(codes: Tensor) -> Tensor:
    """Bytes `[out, in / 2]` as numbers below 16, uint8 `[out, in]`."""
    return torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1)


def packed(numbers: Tensor) -> Tensor:
    """Numbers below 16 `[out, in]` as bytes, uint8 `[out, in / 2]`; raises ValueError for an odd number of inputs."""
    if numbers.shape[1] % 2:
        raise ValueError(f"{numbers.shape[1]} inputs do not fill whole bytes")
    pairs = numbers.to(torch.uint8).contiguous().view(torch.int16)
    return ((pairs & 15) | (pairs >> 4)).to(torch.uint8)
