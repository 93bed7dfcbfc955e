"""A mixture of experts (arXiv:1701.06538): rows sorted by expert, then products in which a tile is of one expert."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.experts import Expert, ExpertsOp, Mixture
from tgi_server.kernels.formats import Format, Grouped, Int8
from tgi_server.kernels.triton.codes import stacked
from tgi_server.kernels.triton.gating import gate
from tgi_server.kernels.triton.grouped import grouped_sums, held, rounded, tile
from tgi_server.kernels.triton.routing import Choices, choose, most_tiles, tile_of

_BLOCK = 1024
FEW = 16
"""Rows of an expert, on average, up to which its weights are the cost: they are read once, in long pieces."""


@triton.jit
def _product(
    x, weight, scale, bias, order, starts, out, outputs, inputs, count, each,
    GATHER: tl.constexpr, SCALE: tl.constexpr, BIAS: tl.constexpr,
    OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """One program OUT outputs of ROWS rows of one expert, transposed: weights are widened where the first factor is."""
    expert, row, mine, source = tile_of(starts, order, count, each, GATHER, ROWS, COUNT)
    if expert < count:
        wanted = mine[None, :]
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


@triton.jit(do_not_specialize=["blocks", "last"])
def _grouped_product(
    x, codes, scale, offset, book, groups, sorting, bias, order, starts, out,
    outputs, inputs, blocks, size, missing, last, count, each,
    BITS: tl.constexpr, RUN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
    GATHER: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """The same of codes in groups of inputs, each expert's inputs sorted by `sorting`; see `codes.Packed`."""
    expert, row, wanted, source = tile_of(starts, order, count, each, GATHER, ROWS, COUNT)
    if expert < count:
        output = tl.program_id(0) * OUT + tl.arange(0, OUT)
        exists, first, scales = output < outputs, expert.to(tl.int64) * outputs, expert.to(tl.int64) * (last + 1)
        own_offset, own_groups, own_sorting = offset, groups, sorting
        if offset is not None:
            own_offset = offset + scales * outputs
        if groups is not None:
            own_groups = groups + expert * inputs
        if sorting is not None:
            own_sorting = sorting + expert * inputs
        sums = grouped_sums(
            x + source.to(tl.int64) * inputs, wanted, codes + (first + output) * (blocks * RUN), output, exists,
            scale + scales * outputs, own_offset, book, own_groups, own_sorting,
            outputs, inputs, blocks, size, missing, last, BITS, RUN, OUT, ROWS, STAGES,
        )  # fmt: skip
        if bias is not None:
            sums += tl.load(bias + first + output, mask=exists, other=0.0).to(tl.float32)[:, None]
        to = out + row.to(tl.int64)[None, :] * outputs + output[:, None]
        tl.store(to, sums.to(out.dtype.element_ty), mask=exists[:, None] & wanted[None, :])


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


class ExpertsLinear:
    """The same layer of all experts: `x @ weight.T * scale + bias` of rows that are sorted by expert."""

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self._count, self._dtype = count, dtype
        self._held: dict[str, Tensor] = {}

    def put(self, number: int, weight: Format, bias: Tensor | None) -> None:
        """Take the layer of one expert, which need not stay."""
        if type(weight) is Int8:
            parts = {"weight": weight.steps, "scale": weight.scale}
        else:
            parts = {"weight": weight.widened(self._dtype)}
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
        _product[(triton.cdiv(outputs, wide), most_tiles(choices, count, tall))](
            x, weight, weight if scale is None else scale, weight if bias is None else bias, chosen.order,
            chosen.starts, out, outputs, inputs, count, each or 1,
            GATHER=each is not None, SCALE=scale is not None, BIAS=bias is not None,
            OUT=wide, IN=deep, ROWS=tall, COUNT=triton.next_power_of_2(count), num_warps=4, num_stages=3,
        )  # fmt: skip
        return out


class GroupedExpertsLinear:
    """The same of codes in groups of inputs."""

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self._count, self._dtype = count, dtype
        self._layers: list[tuple[Grouped, Tensor | None]] = []

    def put(self, number: int, weight: Format, bias: Tensor | None) -> None:
        """Take the layer of one expert. All of them are kept until the last one is there, as they share a layout."""
        assert isinstance(weight, Grouped)
        self._layers.append((weight, bias))
        if number + 1 == self._count:
            weights, biases = zip(*self._layers, strict=True)
            self._outputs, self._inputs = len(weight.codes), weight.inputs
            self._packed = rounded(stacked(weights), self._dtype)
            self._bias = None if bias is None else torch.stack(biases)
            self._layers.clear()

    def __call__(self, x: Tensor, chosen: Choices, each: int | None = None) -> Tensor:
        """See `ExpertsLinear`."""
        choices = len(chosen.order)
        out = x.new_empty(choices, self._outputs)
        sizes = tile(self._packed, choices <= FEW * self._count, x.dtype)
        tensors, numbers, constants = held(self._packed, self._outputs, self._inputs)
        tiles = most_tiles(choices, self._count, sizes["ROWS"])
        _grouped_product[(triton.cdiv(self._outputs, sizes["OUT"]), tiles)](
            x, *tensors, self._bias, chosen.order, chosen.starts, out, *numbers, self._count, each or 1,
            **constants, **sizes, GATHER=each is not None, COUNT=triton.next_power_of_2(self._count), num_warps=4,
        )  # fmt: skip
        return out


def _layer(weight: Format, count: int, dtype: torch.dtype) -> ExpertsLinear | GroupedExpertsLinear:
    return (GroupedExpertsLinear if type(weight) is Grouped else ExpertsLinear)(count, dtype)


def experts(layers: Iterable[Expert], mixture: Mixture, bias: Tensor | None, dtype: torch.dtype) -> ExpertsOp:
    """The operation `experts`; of dense weights in `dtype`, 8-bit ones, and codes in groups of inputs."""
    layers = iter(layers)
    first = next(layers)
    inputs, down = (_layer(weight, mixture.count, dtype) for weight in (first.inputs, first.down))
    for number, expert in enumerate(chain((first,), layers)):
        inputs.put(number, expert.inputs, expert.inputs_bias)
        down.put(number, expert.down, expert.down_bias)

    def run(x: Tensor, scores: Tensor, shared: Tensor | None = None) -> Tensor:
        (rows, size), columns = x.shape, scores.shape[1]
        chosen = choose(scores, mixture, bias)
        wide = inputs(x, chosen, mixture.chosen)
        results = down(gate(wide, mixture.activation, mixture.gated, mixture.clamp), chosen)
        out, has_shared = torch.empty_like(x), shared is not None
        _add_up[(rows, triton.cdiv(size, _BLOCK))](
            results, chosen.places, chosen.weights, shared if has_shared else x, scores, out,
            size, mixture.count, columns, mixture.chosen,
            SHARED=has_shared, SHARE=has_shared and columns > mixture.count, BLOCK=_BLOCK,
        )  # fmt: skip
        return out

    return run
