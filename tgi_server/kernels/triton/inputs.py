"""Inputs rounded to 8 bits, for the formats that have such: in groups, or all of a row but for large numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

OUTLIER_BLOCK = 64
"""Inputs that are looked at together for large numbers."""
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
_HALF_UP = tl.constexpr(12582912.0)  # 1.5 * 2^23: added to a number below 2^22, it leaves no place for a fraction


@triton.jit
def _step(most):
    """Of 255 from minus to plus `most`, as `formats.in_steps` has it."""
    return tl.maximum(tl.div_rn(most, 127.0), _TINY)


@triton.jit
def _nearest(x, step):
    """How many steps, the nearest whole number; of two the even one."""
    return (tl.div_rn(x, step) + _HALF_UP) - _HALF_UP


@triton.jit
def _in_groups(x, starts, order, out, inputs, BLOCK: tl.constexpr):
    """One program a row and group."""
    row, group = tl.program_id(0).to(tl.int64) * inputs, tl.program_id(1)
    begin, end = tl.load(starts + group), tl.load(starts + group + 1)
    most = tl.zeros([BLOCK], tl.float32)
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        source = place
        if order is not None:
            source = tl.load(order + place, mask=place < end, other=0)
        most = tl.maximum(most, tl.abs(tl.load(x + row + source, mask=place < end, other=0.0).to(tl.float32)))
    step = _step(tl.max(most, axis=0))
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        source = place
        if order is not None:
            source = tl.load(order + place, mask=place < end, other=0)
        number = tl.load(x + row + source, mask=place < end, other=0.0).to(tl.float32)
        tl.store(out + row + place, (_nearest(number, step) * step).to(out.dtype.element_ty), mask=place < end)


def starts_of(groups: Tensor) -> Tensor:
    """Where each group begins when inputs are sorted by it, and the end: int32 `[groups + 1]`."""
    return torch.cat([groups.new_zeros(1), groups.bincount().cumsum(0)]).to(torch.int32)


def rounded_in_groups(x: Tensor, starts: Tensor, order: Tensor | None) -> Tensor:
    """`GroupedByteInputs.seen` of `x [rows, in]`, sorted by `order` (int32 `[in]`), group i at `starts[i]`."""
    out = torch.empty_like(x)
    _in_groups[(len(x), len(starts) - 1)](x, starts, order, out, x.shape[1], BLOCK=128, num_warps=1)
    return out


@triton.jit
def _small(x, threshold):
    """Absolute values of the numbers that are rounded, 0 for the others; NaN is none of the former."""
    size = tl.abs(x)
    return tl.where(size < threshold, size, 0.0)


@triton.jit
def _below(
    x, out, steps, flags, inputs, blocks, threshold,
    SEEN: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a row, in pieces of PARTS blocks."""
    row = tl.program_id(0).to(tl.int64)
    most = tl.zeros([PARTS, BLOCK], tl.float32)
    for start in range(0, blocks, PARTS):
        input = (start + tl.arange(0, PARTS))[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        number = tl.load(x + row * inputs + input, mask=input < inputs, other=0.0).to(tl.float32)
        most = tl.maximum(most, _small(number, threshold))
    step = _step(tl.max(tl.max(most, axis=1), axis=0))
    for start in range(0, blocks, PARTS):
        block = start + tl.arange(0, PARTS)
        input = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        number = tl.load(x + row * inputs + input, mask=input < inputs, other=0.0).to(tl.float32)
        small = tl.abs(number) < threshold
        nearest = _nearest(tl.where(small, number, 0.0), step)
        if SEEN:
            nearest = tl.where(small, nearest * step, number)
        else:
            large = tl.max((~small).to(tl.int32), axis=1)
            tl.store(flags + row * blocks + block, large.to(tl.int8), mask=block < blocks)
        tl.store(out + row * inputs + input, nearest.to(out.dtype.element_ty), mask=input < inputs)
    if not SEEN:
        tl.store(steps + row, step)


class Rounded(NamedTuple):
    """Inputs of `Int8Outlier` in steps.

    Attributes:
        steps: int8 `[rows, in]`, 0 for large numbers.
        size: of a step, float32 `[rows]`.
        large: int8 `[rows, blocks]`, whether there are large numbers among OUTLIER_BLOCK inputs.
    """

    steps: Tensor
    size: Tensor
    large: Tensor


def rounded_below(x: Tensor, threshold: float) -> Rounded:
    """Of `x [rows, in]` what is smaller than `threshold` in 255 steps a row."""
    blocks = triton.cdiv(x.shape[1], OUTLIER_BLOCK)
    size = torch.empty(len(x), dtype=torch.float32, device=x.device)
    large = torch.empty(len(x), blocks, dtype=torch.int8, device=x.device)
    rounded = Rounded(torch.empty_like(x, dtype=torch.int8), size, large)
    _launch(x, *rounded, threshold, seen=False)
    return rounded


def seen_below(x: Tensor, threshold: float) -> Tensor:
    """`Int8Outlier.seen` of `x [rows, in]`."""
    out = torch.empty_like(x)
    _launch(x, out, out, out, threshold, seen=True)
    return out


def _launch(x: Tensor, out: Tensor, size: Tensor, large: Tensor, threshold: float, seen: bool) -> None:
    blocks = triton.cdiv(x.shape[1], OUTLIER_BLOCK)
    parts = min(triton.next_power_of_2(blocks), 32)
    _below[(len(x),)](
        x, out, size, large, x.shape[1], blocks, threshold, SEEN=seen, PARTS=parts, BLOCK=OUTLIER_BLOCK, num_warps=4
    )
