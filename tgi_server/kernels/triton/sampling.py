"""The choice of a token for each row of scores, and the log-probability of it.

The vocabulary is gone through in parts, each by a program of its own; a last kernel puts the results together. A drawn
token is the one with the largest sum of score and Gumbel noise (arXiv:1411.0030); the noise is a hash of seed, position
and token, as `kernels.sampling` defines it. Of equal tokens the first is taken.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.sampling import NEGLIGIBLE, ROW, SamplingRows, edit
from tgi_server.kernels.triton.filters import filter_rows

PART = 8192
"""Tokens of the vocabulary a program, if there are so many."""
BLOCK = 1024
_DRAWS = [(ROW.names or ()).index(name) for name in ("seed", "position", "draws")]


@triton.jit
def _exp(x, highest):
    """`exp(x - highest)`, also where both are minus infinity."""
    return tl.exp(x - tl.where(highest == float("-inf"), 0.0, highest))


@triton.jit
def _scan(logits, best, place, mass, vocabulary, stride, PART: tl.constexpr, BLOCK: tl.constexpr):
    """One program a row and part: its best score, the token that has it, the sum of exp(score - best)."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    high = tl.full([BLOCK], float("-inf"), tl.float32)
    where = part * PART + lane
    sum = tl.zeros([BLOCK], tl.float32)
    for start in range(part * PART, part * PART + PART, BLOCK):
        token = start + lane
        score = tl.load(logits + row * stride + token, mask=token < vocabulary, other=float("-inf"))
        higher = tl.maximum(high, score)
        sum = sum * _exp(high, higher) + _exp(score, higher)
        where = tl.where(score > high, token, where)
        high = higher
    top = tl.max(high, axis=0)
    cell = row * tl.num_programs(1) + part
    tl.store(best + cell, top)
    tl.store(place + cell, tl.min(tl.where(high == top, where, vocabulary), axis=0))
    tl.store(mass + cell, tl.sum(sum * _exp(high, top), axis=0))


@triton.jit
def _mix(x):
    """A round of the finaliser of SplitMix64, on unsigned numbers."""
    x = x + 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _draw(
    logits, best, draws, noisy, place, vocabulary, stride, negligible,
    PART: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One program a row and part: the largest noisy score and the token that has it; nothing for rows not drawn."""
    row, part, parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    if tl.load(draws + 3 * row + 2) != 0:
        each = tl.arange(0, PARTS)
        least = tl.max(tl.load(best + row * parts + each, mask=each < parts, other=float("-inf")), axis=0) - negligible
        key = _mix(_mix(tl.load(draws + 3 * row).to(tl.uint64)) + tl.load(draws + 3 * row + 1).to(tl.uint64))
        lane = tl.arange(0, BLOCK)
        high = tl.full([BLOCK], float("-inf"), tl.float64)
        where = part * PART + lane
        for start in range(part * PART, part * PART + PART, BLOCK):
            token = start + lane
            score = tl.load(logits + row * stride + token, mask=token < vocabulary, other=float("-inf"))
            if tl.max(score, axis=0) >= least:  # float64 is slow on many GPUs
                uniform = ((_mix(key + token.to(tl.uint64)) >> 11).to(tl.float64) + 0.5) * 1.1102230246251565e-16
                sum = score.to(tl.float64) - tl.log(-tl.log(uniform))
                higher = (score >= least) & (sum > high)
                where = tl.where(higher, token, where)
                high = tl.where(higher, sum, high)
        top = tl.max(high, axis=0)
        tl.store(noisy + row * parts + part, top)
        tl.store(place + row * parts + part, tl.min(tl.where(high == top, where, vocabulary), axis=0))


@triton.jit
def _first_best(value, place, cell, mask, vocabulary):
    """The lowest of the tokens `place` that have the largest `value`."""
    each = tl.load(value + cell, mask=mask, other=float("-inf"))
    tokens = tl.load(place + cell, mask=mask, other=vocabulary)
    return tl.min(tl.where(each == tl.max(each, axis=0), tokens, vocabulary), axis=0)


@triton.jit
def _combine(
    logits, best, place, mass, draws, noisy, noisy_place, tokens, logprobs, normalisers, vocabulary, stride, parts,
    DRAW: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    each = tl.arange(0, PARTS)
    mask, cell = each < parts, row * parts + each
    high = tl.load(best + cell, mask=mask, other=float("-inf"))
    top = tl.max(high, axis=0)
    sum = tl.sum(tl.load(mass + cell, mask=mask, other=0.0) * _exp(high, top), axis=0)
    normaliser = top + tl.log(sum)
    token = _first_best(best, place, cell, mask, vocabulary)
    if DRAW:  # noqa: SIM102 (known when it is compiled)
        if tl.load(draws + 3 * row + 2) != 0:
            token = _first_best(noisy, noisy_place, cell, mask, vocabulary)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(logprobs + row, tl.load(logits + row * stride + token) - normaliser)
    tl.store(normalisers + row, normaliser)


def sample(logits: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor, Tensor]:
    """The operation `sample`."""
    edit(logits, rows)
    records = torch.from_numpy(np.ascontiguousarray(rows.rows).view(np.int64).reshape(len(logits), -1))
    on_device = records.to(logits.device, non_blocking=True)
    filter_rows(logits, rows, on_device)
    draws = on_device[:, _DRAWS].contiguous()
    return _launch(logits, draws, bool(rows.rows["draws"].any()))


def _launch(logits: Tensor, draws: Tensor, any_drawn: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`draws` (int64 `[rows, 3]`) has seed, position and whether to draw (not 0); `any_drawn`: whether any row does."""
    (rows, vocabulary), stride = logits.shape, logits.stride(0)
    part = min(PART, triton.next_power_of_2(vocabulary))
    block, parts = min(BLOCK, part), triton.cdiv(vocabulary, part)
    padded = triton.next_power_of_2(parts)

    def new(dtype: torch.dtype, *size: int) -> Tensor:
        return torch.empty(size, dtype=dtype, device=logits.device)

    best, mass = new(torch.float32, rows, parts), new(torch.float32, rows, parts)
    place, noisy_place = new(torch.int32, rows, parts), new(torch.int32, rows, parts)
    noisy = new(torch.float64, rows, parts)
    tokens, logprobs, normalisers = new(torch.int64, rows), new(torch.float32, rows), new(torch.float32, rows)
    _scan[(rows, parts)](logits, best, place, mass, vocabulary, stride, PART=part, BLOCK=block)
    if any_drawn:
        _draw[(rows, parts)](
            logits, best, draws, noisy, noisy_place, vocabulary, stride, NEGLIGIBLE,
            PART=part, BLOCK=block, PARTS=padded,
        )  # fmt: skip
    _combine[(rows,)](
        logits, best, place, mass, draws, noisy, noisy_place, tokens, logprobs, normalisers, vocabulary, stride, parts,
        DRAW=any_drawn, PARTS=padded, num_warps=1,
    )  # fmt: skip
    return tokens, logprobs, normalisers
