"""Which rows go to which expert of a mixture: choices made and sorted on the device, tiles found by their numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.experts import Mixture

BLOCK = 1024
_LEAST = tl.constexpr(-1e38)


@triton.jit
def _route(
    scores, bias, experts, weights, count, columns, chosen,
    BIAS: tl.constexpr, OVER_ALL: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """One program a row: its best scores in descending order, of equal ones the first, as weights."""
    row = tl.program_id(0)
    expert = tl.arange(0, COUNT)
    there = expert < count
    score = tl.load(scores + row.to(tl.int64) * columns + expert, mask=there, other=-float("inf"))
    if BIAS:
        score += tl.load(bias + expert, mask=there, other=0.0)
    score = tl.where(score > _LEAST, score, _LEAST)  # what is no number comes last
    high = tl.max(score, axis=0)
    sum = 0.0
    if OVER_ALL:
        sum = tl.sum(tl.where(there, tl.exp(score - high), 0.0), axis=0)
    left = there
    for i in range(chosen):
        best = tl.max(tl.where(left, score, -float("inf")), axis=0)
        id = tl.min(tl.where(left & (score == best), expert, COUNT), axis=0)
        power = tl.exp(best - high)
        if not OVER_ALL:
            sum += power
        tl.store(experts + row * chosen + i, id)
        tl.store(weights + row * chosen + i, power)
        left = left & (expert != id)
    for i in range(chosen):
        tl.store(weights + row * chosen + i, tl.load(weights + row * chosen + i) / sum)


@triton.jit(do_not_specialize=["choices"])
def _sort(experts, order, places, starts, choices, BLOCK: tl.constexpr):
    """One program an expert, and one for the end: where its choices begin, which they are, and where each one lies."""
    expert = tl.program_id(0)
    before = 0
    for start in range(0, choices, BLOCK):
        choice = start + tl.arange(0, BLOCK)
        id = tl.load(experts + choice, mask=choice < choices, other=2147483647)
        before += tl.sum((id < expert).to(tl.int32), axis=0)
    tl.store(starts + expert, before)
    for start in range(0, choices, BLOCK):
        choice = start + tl.arange(0, BLOCK)
        mine = tl.load(experts + choice, mask=choice < choices, other=-1) == expert
        place = before + tl.cumsum(mine.to(tl.int32), axis=0) - 1
        tl.store(order + place, choice, mask=mine)
        tl.store(places + choice, place, mask=mine)
        before += tl.sum(mine.to(tl.int32), axis=0)


@triton.jit
def tile_of(starts, order, count, each, GATHER: tl.constexpr, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """Of the tile that has the number of this program, by the grid's second axis: its expert, which is `count` for
    tiles that there are not; its ROWS rows, which of these exist, and where their inputs lie.

    The tiles of all experts are numbered one after the other. With GATHER the inputs are taken from where they lay
    before they were sorted, `each` choices a row.
    """
    number = tl.arange(0, COUNT)
    begin = tl.load(starts + number, mask=number < count, other=0)
    rows = tl.load(starts + number + 1, mask=number < count, other=0) - begin
    tiles = (rows + ROWS - 1) // ROWS
    ends = tl.cumsum(tiles, axis=0)
    tile = tl.program_id(1)
    expert = tl.minimum(tl.sum((ends <= tile).to(tl.int32), axis=0), count)
    own = number == expert
    tile -= tl.sum(tl.where(own, ends - tiles, 0), axis=0)
    row = tl.sum(tl.where(own, begin, 0), axis=0) + tile * ROWS + tl.arange(0, ROWS)
    wanted = row < tl.sum(tl.where(own, begin + rows, 0), axis=0)
    source = row
    if GATHER:
        source = tl.load(order + row, mask=wanted, other=0) // each
    return expert, row, wanted, source


class Choices(NamedTuple):
    """Which rows go to which expert: weights float32 `[rows, chosen]`, the number of each choice when sorted by
    expert, where each choice lies then, and where each expert's begin (and the end), int32.
    """

    weights: Tensor
    order: Tensor
    places: Tensor
    starts: Tensor


def choose(scores: Tensor, mixture: Mixture, bias: Tensor | None) -> Choices:
    """The experts of each row of float32 scores `[rows, count or more]`."""
    (rows, columns), each = scores.shape, mixture.chosen
    experts, order, places = (scores.new_empty(rows * each, dtype=torch.int32) for _ in range(3))
    weights, starts = scores.new_empty(rows, each), scores.new_empty(mixture.count + 1, dtype=torch.int32)
    _route[(rows,)](
        scores, scores if bias is None else bias, experts, weights, mixture.count, columns, each,
        BIAS=bias is not None, OVER_ALL=mixture.over_all, COUNT=triton.next_power_of_2(mixture.count),
    )  # fmt: skip
    _sort[(mixture.count + 1,)](experts, order, places, starts, rows * each, BLOCK=BLOCK)
    return Choices(weights, order, places, starts)


def most_tiles(choices: int, count: int, rows: int) -> int:
    """Of `rows` rows, for any way to divide choices among experts: the last one of each is not full."""
    return int(triton.cdiv(choices, rows)) + min(count, choices)
