"""The operations that `kernels.recurrent` declares: a program takes some channels of a sequence through its positions.

Lengths and slots are read on the device, so that a step recorded as a CUDA graph can be run again with others.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.attention import AttentionBatch
from tgi_server.kernels.triton.support import padded

COLUMNS = 64
"""Channels of a program."""
ROWS = 16
"""Positions that are convolved at a time."""


@triton.jit
def _silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _softplus(x):
    """log(1 + e^x); the logarithm as 2 artanh(u / (2 + u)), u = e^-|x|, by its series: near 0 nothing cancels."""
    u = tl.exp(-tl.abs(x))
    s = u / (2.0 + u)
    square = s * s
    y = square * (1.0 / 13) + 1.0 / 11
    y = y * square + 1.0 / 9
    y = y * square + 1.0 / 7
    y = y * square + 1.0 / 5
    y = y * square + 1.0 / 3
    return tl.maximum(x, 0.0) + 2.0 * s * (y * square + 1.0)


@triton.jit
def _inputs(projected, state, position, there, column, in_channels, fresh, CHANNELS: tl.constexpr, TAPS: tl.constexpr):
    """Those of `position [rows]` in the step; before it, position -1 is the last that the state has."""
    mask = there[:, None] & in_channels[None, :]
    new = position[:, None] * (2 * CHANNELS) + column[None, :]
    old = (position[:, None] + (TAPS - 1)) * CHANNELS + column[None, :]
    now = tl.load(projected + new, mask=mask & (position >= 0)[:, None], other=0.0).to(tl.float32)
    return now + tl.load(state + old, mask=mask & (position < 0)[:, None] & (fresh == 0), other=0.0)


@triton.jit(do_not_specialize=["stride"])
def _convolve(
    projected, state, weight, bias, starts, contexts, tables, out, stride,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """`stride`: of tables."""
    sequence, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_channels = column < CHANNELS
    first = tl.load(starts + sequence)
    length = (tl.load(starts + sequence + 1) - first).to(tl.int32)
    fresh = (tl.load(contexts + sequence) == length).to(tl.int32)
    projected += first * (2 * CHANNELS)
    out += first * CHANNELS
    state += tl.load(tables + sequence * stride) * ((TAPS - 1) * CHANNELS)
    for start in range(0, length, ROWS):
        row = start + tl.arange(0, ROWS)
        there = row < length
        sums = tl.zeros([ROWS, COLUMNS], tl.float32)
        if bias is not None:
            sums += tl.load(bias + column, mask=in_channels, other=0.0)[None, :]
        for tap in tl.static_range(TAPS):
            x = _inputs(projected, state, row - (TAPS - 1 - tap), there, column, in_channels, fresh, CHANNELS, TAPS)
            sums += x * tl.load(weight + tap * CHANNELS + column, mask=in_channels, other=0.0)[None, :]
        mask = there[:, None] & in_channels[None, :]
        to = out + row[:, None] * CHANNELS + column[None, :]
        tl.store(to, _silu(sums).to(out.dtype.element_ty), mask=mask)
    kept = tl.arange(0, KEPT)
    there = kept < TAPS - 1
    last = _inputs(projected, state, length - (TAPS - 1) + kept, there, column, in_channels, fresh, CHANNELS, TAPS)
    tl.debug_barrier()  # all have read the state
    tl.store(state + kept[:, None] * CHANNELS + column[None, :], last, mask=there[:, None] & in_channels[None, :])


def convolve(projected: Tensor, batch: AttentionBatch, state: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The operation `convolve`."""
    taps, channels = weight.shape
    out, tables = projected.new_empty(len(projected), channels), batch.block_tables
    _convolve[(len(batch.query_lengths), triton.cdiv(channels, COLUMNS))](
        projected, state, weight, bias, batch.starts, batch.contexts, tables, out, tables.stride(0),
        CHANNELS=channels, TAPS=taps, ROWS=1 if max(batch.query_lengths) == 1 else ROWS, COLUMNS=COLUMNS,
        KEPT=padded(taps), num_warps=2,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["stride"])
def _selective_scan(
    x, time, select, projected, state, rates, skip, bias, starts, contexts, tables, out, stride,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """`stride`: of tables."""
    sequence, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    number, in_channels = tl.arange(0, ROWS), column < CHANNELS
    in_states = number < STATES
    mask = in_states[:, None] & in_channels[None, :]
    first, beyond = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    fresh = tl.load(contexts + sequence) == beyond - first
    cell = number[:, None] * CHANNELS + column[None, :]
    slot = state + tl.load(tables + sequence * stride) * (STATES * CHANNELS) + cell
    held = tl.load(slot, mask=mask & (fresh == 0), other=0.0)
    rate = tl.load(rates + cell, mask=mask, other=0.0)
    own_skip = tl.load(skip + column, mask=in_channels, other=0.0)
    own_bias = tl.load(bias + column, mask=in_channels, other=0.0)
    for row in range(first, beyond):
        at = row * CHANNELS + column
        value = tl.load(x + at, mask=in_channels, other=0.0).to(tl.float32)
        d = _softplus(tl.load(time + at, mask=in_channels, other=0.0).to(tl.float32) + own_bias)
        before = tl.load(select + row * 2 * STATES + number, mask=in_states, other=0.0).to(tl.float32)
        after = tl.load(select + (row * 2 + 1) * STATES + number, mask=in_states, other=0.0).to(tl.float32)
        held = tl.exp(d[None, :] * rate) * held + before[:, None] * (d * value)[None, :]
        y = tl.sum(held * after[:, None], axis=0) + own_skip * value
        gate = tl.load(projected + (row * 2 + 1) * CHANNELS + column, mask=in_channels, other=0.0).to(tl.float32)
        tl.store(out + at, (y * _silu(gate)).to(out.dtype.element_ty), mask=in_channels)
    tl.store(slot, held, mask=mask)


def scan(
    x: Tensor, time: Tensor, select: Tensor, projected: Tensor, batch: AttentionBatch, state: Tensor, rates: Tensor,
    skip: Tensor, bias: Tensor,
) -> Tensor:  # fmt: skip
    """The operation `scan`."""
    (states, channels), out, tables = rates.shape, x.new_empty(x.shape), batch.block_tables
    _selective_scan[(len(batch.query_lengths), triton.cdiv(channels, COLUMNS))](
        x, time, select, projected, state, rates, skip, bias, batch.starts, batch.contexts, tables, out,
        tables.stride(0), CHANNELS=channels, STATES=states, ROWS=padded(states), COLUMNS=COLUMNS, num_warps=4,
    )  # fmt: skip
    return out
