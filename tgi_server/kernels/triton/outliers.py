"""Product of 8-bit weights with inputs of 8 bits, but for the large ones (LLM.int8, arXiv:2208.07339).

Whole numbers are multiplied and added as such, exactly. Large inputs, which are zeros there, are multiplied as they are
and only in blocks of inputs that have one: which these are is found on the device.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.formats import Int8Outlier
from tgi_server.kernels.plain import LinearOp
from tgi_server.kernels.triton.inputs import OUTLIER_BLOCK, rounded_below, seen_below
from tgi_server.kernels.triton.int8 import FEW_ROWS, int8_linear

_FLAGS = 32
"""Blocks that a program looks through together for large numbers."""


@triton.jit(do_not_specialize=["rows"])
def _outlier_rows(
    x, rounded, size, large, weight, scale, bias, out, rows, outputs, inputs, blocks, threshold,
    OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, FLAGS: tl.constexpr,
):  # fmt: skip
    """One program OUT outputs of ROWS rows, transposed."""
    output = tl.program_id(0) * OUT + tl.arange(0, OUT)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    exists, wanted = (output < outputs)[:, None], (row < rows)[None, :]
    from_weight = weight + output.to(tl.int64)[:, None] * inputs
    from_row = row.to(tl.int64)[None, :] * inputs
    whole = tl.zeros([OUT, ROWS], tl.int32)
    for start in range(0, inputs, IN):
        input = start + tl.arange(0, IN)
        inside = input < inputs
        w = tl.load(from_weight + input[None, :], mask=exists & inside[None, :], other=0)
        columns = tl.load(rounded + from_row + input[:, None], mask=inside[:, None] & wanted, other=0)
        whole = tl.dot(w, columns, whole, out_dtype=tl.int32)
    sums = whole.to(tl.float32) * tl.load(size + row[None, :], mask=wanted, other=0.0)
    for start in range(0, blocks, FLAGS):
        block = start + tl.arange(0, FLAGS)
        mask = (row < rows)[:, None] & (block < blocks)[None, :]
        left = tl.max(tl.load(large + row[:, None] * blocks + block[None, :], mask=mask, other=0).to(tl.int32), axis=0)
        for _ in tl.range(0, tl.sum(left, axis=0), num_stages=1):
            first = tl.min(tl.where(left > 0, block, blocks), axis=0)
            left = tl.where(block == first, 0, left)
            input = first * BLOCK + tl.arange(0, BLOCK)
            inside = input < inputs
            w = tl.load(from_weight + input[None, :], mask=exists & inside[None, :], other=0)
            columns = tl.load(x + from_row + input[:, None], mask=inside[:, None] & wanted, other=0.0)
            ordinary = tl.abs(columns.to(tl.float32)) < threshold
            columns = tl.where(ordinary, 0.0, columns.to(tl.float32)).to(columns.dtype)
            sums += tl.dot(w.to(columns.dtype), columns, input_precision="ieee")
    sums *= tl.load(scale + output[:, None], mask=exists, other=0.0)
    if bias is not None:
        sums += tl.load(bias + output[:, None], mask=exists, other=0.0).to(tl.float32)
    to = out + row.to(tl.int64)[None, :] * outputs + output[:, None]
    tl.store(to, sums.to(out.dtype.element_ty), mask=exists & wanted)


def outlier_linear(weight: Int8Outlier, bias: Tensor | None) -> LinearOp:
    """A layer, of 8-bit weights whose inputs are of 8 bits too."""
    (outputs, inputs), threshold = weight.steps.shape, weight.threshold

    def run(x: Tensor) -> Tensor:
        rows = len(x)
        if rows == 1:
            return int8_linear(seen_below(x, threshold), weight.steps, weight.scale, bias)
        out, rounded = x.new_empty(rows, outputs), rounded_below(x, threshold)
        wide, tall = (32, FEW_ROWS) if rows <= FEW_ROWS else (128, 64)
        _outlier_rows[(triton.cdiv(outputs, wide), triton.cdiv(rows, tall))](
            x, *rounded, weight.steps, weight.scale, bias, out, rows, outputs, inputs, rounded.large.shape[1],
            threshold, OUT=wide, IN=128, ROWS=tall, BLOCK=OUTLIER_BLOCK, FLAGS=_FLAGS, num_warps=4, num_stages=3,
        )  # fmt: skip
        return out

    return run
