"""The few ways in which a linear layer keeps its weights. A quantisation method reads a checkpoint into one of them.

Each knows its weights as one plain matrix, `widened`, which is what every kernel of the format has to multiply by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Dense:
    """`weight [out, in]` in the serving dtype."""

    weight: Tensor

    def widened(self, dtype: torch.dtype) -> Tensor:
        """The matrix `[out, in]` in `dtype`."""
        return self.weight.to(dtype)

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

    @property
    def inputs(self) -> int:
        """See `Dense`."""
        return self.steps.shape[1]


@dataclass(frozen=True, slots=True)
class Int8Outlier(Int8):
    """The same with 8-bit inputs, but for those columns in which an input is beyond `threshold` (arXiv:2208.07339)."""

    threshold: float


@dataclass(frozen=True, slots=True)
class Int4Grouped:
    """Four bits a weight in groups of inputs that share a step and a zero: `(code - zero) * scale`.

    Attributes:
        codes: uint8 `[out, in / 2]`; input 2i is in the low half of byte i, input 2i + 1 in the high one.
        scale, zero: float32 `[out, groups]`.
        groups: int64 `[in]`, the group of each input. They need not lie side by side (act-order); a kernel that wants
            them so sorts the inputs by it. A rank that has a part of the inputs may not see all groups.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    groups: Tensor

    def widened(self, dtype: torch.dtype) -> Tensor:
        """See `Dense`."""
        return ((unpacked(self.codes).float() - self.zero[:, self.groups]) * self.scale[:, self.groups]).to(dtype)

    @property
    def inputs(self) -> int:
        """See `Dense`."""
        return 2 * self.codes.shape[1]


@dataclass(frozen=True, slots=True)
class Codebook4:
    """Four bits a weight that choose one of 16 numbers (NF4, arXiv:2305.14314), and the largest weight of each block.

    Attributes:
        codes: uint8 `[out, in / 2]`, as in `Int4Grouped`.
        book: float32 `[16]`.
        scale: float32 `[out * in / block]`, of consecutive blocks of the matrix read row by row.
        block: weights that share a scale.
    """

    codes: Tensor
    book: Tensor
    scale: Tensor
    block: int

    def widened(self, dtype: torch.dtype) -> Tensor:
        """See `Dense`."""
        numbers = self.book[unpacked(self.codes).long()]
        return (numbers.view(-1, self.block) * self.scale.unsqueeze(1)).view_as(numbers).to(dtype)

    @property
    def inputs(self) -> int:
        """See `Dense`."""
        return 2 * self.codes.shape[1]


Rows = Dense | Int8 | Int8Outlier
"""Formats whose tensors have a row for each output."""
Format = Dense | Int8 | Int8Outlier | Int4Grouped | Codebook4


def unpacked(codes: Tensor) -> Tensor:
    """Bytes `[out, in / 2]` as numbers below 16, uint8 `[out, in]`."""
    return torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1)


def packed(numbers: Tensor) -> Tensor:
    """Numbers below 16 `[out, in]` as bytes, uint8 `[out, in / 2]`; raises ValueError for an odd number of inputs."""
    if numbers.shape[1] % 2:
        raise ValueError(f"{numbers.shape[1]} inputs do not fill whole bytes")
    pairs = numbers.to(torch.uint8).view(len(numbers), -1, 2)
    return pairs[..., 0] | pairs[..., 1] << 4
