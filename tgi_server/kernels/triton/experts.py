"""A mixture of experts (arXiv:1701.06538): rows sorted by expert, then products in which a tile is of one expert."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.experts import Expert, ExpertsOp, Mixture
from tgi_server.kernels.formats import Dense, Format, Int8
from tgi_server.kernels.triton.gating import gate

BLOCK = 1024
_LEAST = tl.constexpr(-1e38)
FEW = 16
"""Rows of an expert, on average, up to which its weights are the cost: they are read once, in long pieces."""


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
def _product(
    x, weight, scale, bias, order, starts, out, outputs, inputs, count, each,
    GATHER: tl.constexpr, SCALE: tl.constexpr, BIAS: tl.constexpr,
    OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """One program OUT outputs of ROWS rows of one expert, transposed: weights are widened where the first factor is.

    The tiles of all experts are numbered one after the other. With GATHER the rows are taken from where they lay
    before they were sorted, `each` choices a row.
    """
    number = tl.arange(0, COUNT)
    begin = tl.load(starts + number, mask=number < count, other=0)
    rows = tl.load(starts + number + 1, mask=number < count, other=0) - begin
    tiles = (rows + ROWS - 1) // ROWS
    ends = tl.cumsum(tiles, axis=0)
    tile = tl.program_id(1)
    expert = tl.sum((ends <= tile).to(tl.int32), axis=0)
    if expert < count:
        own = number == expert
        tile -= tl.sum(tl.where(own, ends - tiles, 0), axis=0)
        row = tl.sum(tl.where(own, begin, 0), axis=0) + tile * ROWS + tl.arange(0, ROWS)
        wanted = (row < tl.sum(tl.where(own, begin + rows, 0), axis=0))[None, :]
        source = row
        if GATHER:
            source = tl.load(order + row, mask=tl.reshape(wanted, [ROWS]), other=0) // each
        output = tl.program_id(0) * OUT + tl.arange(0, OUT)
        exists = (output < outputs)[:, None]
        from_weight = weight + (expert.to(tl.int64) * outputs + output)[:, None] * inputs
        from_x = x + source.to(tl.int64)[None, :] * inputs
        sums = tl.zeros([OUT, ROWS], tl.float32)
        for start in range(0, inputs, IN):
            input = start + tl.arange(0, IN)
            inside = input < inputs
            w = tl.load(from_weight + input[None, :], mask=exists & inside[None, :], other=0)
            columns = tl.load(from_x + input[:, None], mask=inside[:, None] & wanted, other=0.0)
            sums += tl.dot(w.to(columns.dtype), columns, input_precision="ieee")
        if SCALE:
            sums *= tl.load(scale + expert * outputs + output[:, None], mask=exists, other=0.0)
        if BIAS:
            sums += tl.load(bias + expert * outputs + output[:, None], mask=exists, other=0.0).to(tl.float32)
        to = out + row.to(tl.int64)[None, :] * outputs + output[:, None]
        tl.store(to, sums.to(out.dtype.element_ty), mask=exists & wanted)


@triton.jit
def _add_up(
    x, places, weights, shared, scores, out, size, count, columns, chosen,
    SHARED: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program BLOCK columns of a row: the sum of its experts' results times their weights."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    sum = tl.zeros([BLOCK], tl.float32)
    if SHARED:
        sum += tl.load(shared + row * size + column, mask=inside, other=0.0).to(tl.float32)
    if SHARE:
        sum *= tl.sigmoid(tl.load(scores + row * columns + count))
    for i in range(chosen):
        place = tl.load(places + row * chosen + i).to(tl.int64)
        result = tl.load(x + place * size + column, mask=inside, other=0.0).to(tl.float32)
        sum += result * tl.load(weights + row * chosen + i)
    tl.store(out + row * size + column, sum.to(out.dtype.element_ty), mask=inside)


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


class GroupedLinear:
    """The same layer of all experts: `x @ weight.T * scale + bias` of rows that are sorted by expert."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: dict[str, Tensor] = {}

    def put(self, number: int, weight: Format, bias: Tensor | None) -> None:
        """Take the layer of one expert, which need not stay."""
        assert isinstance(weight, Dense | Int8)
        parts = {"weight": weight.steps if isinstance(weight, Int8) else weight.weight}
        if isinstance(weight, Int8):
            parts["scale"] = weight.scale
        if bias is not None:
            parts["bias"] = bias
        for name, part in parts.items():
            if name not in self._held:
                self._held[name] = part.new_zeros((self._count, *part.shape))
            self._held[name][number] = part

    def __call__(self, x: Tensor, chosen: Choices, each: int | None = None) -> Tensor:
        """`[choices, in]` to `[choices, out]`; with `each`, of rows that are not sorted yet, so many choices a row."""
        weight, scale, bias = (self._held.get(name) for name in ("weight", "scale", "bias"))
        assert weight is not None
        count, outputs, inputs = weight.shape
        choices = len(chosen.order)
        out = x.new_empty(choices, outputs)
        few = choices <= FEW * count
        wide, tall = (32, FEW) if few else (128, 64)
        deep = (512 if few else 128) // x.dtype.itemsize  # three stages of both factors fit in any GPU's shared memory
        tiles = triton.cdiv(choices, tall) + min(count, choices)  # at most: the last of each expert is not full
        _product[(triton.cdiv(outputs, wide), tiles)](
            x, weight, weight if scale is None else scale, weight if bias is None else bias, chosen.order,
            chosen.starts, out, outputs, inputs, count, each or 1,
            GATHER=each is not None, SCALE=scale is not None, BIAS=bias is not None,
            OUT=wide, IN=deep, ROWS=tall, COUNT=triton.next_power_of_2(count), num_warps=4, num_stages=3,
        )  # fmt: skip
        return out


def experts(layers: Iterable[Expert], mixture: Mixture, bias: Tensor | None, dtype: torch.dtype) -> ExpertsOp:
    """The operation `experts`; of dense weights in `dtype`, and 8-bit ones."""
    inputs, down = GroupedLinear(mixture.count), GroupedLinear(mixture.count)
    for number, expert in enumerate(layers):
        inputs.put(number, expert.inputs, expert.inputs_bias)
        down.put(number, expert.down, expert.down_bias)

    def run(x: Tensor, scores: Tensor, shared: Tensor | None = None) -> Tensor:
        (rows, size), columns = x.shape, scores.shape[1]
        chosen = choose(scores, mixture, bias)
        wide = inputs(x, chosen, mixture.chosen)
        results = down(gate(wide, mixture.activation, mixture.gated, mixture.clamp), chosen)
        out, has_shared = torch.empty_like(x), shared is not None
        _add_up[(rows, triton.cdiv(size, BLOCK))](
            results, chosen.places, chosen.weights, shared if has_shared else x, scores, out,
            size, mixture.count, columns, mixture.chosen,
            SHARED=has_shared, SHARE=has_shared and columns > mixture.count, BLOCK=BLOCK,
        )  # fmt: skip
        return out

    return run
