"""Product with 8-bit weights of one scale an output; activations keep their precision.

Whole numbers up to 127 are exact in every float type, so the sums are those of the rounded weights. They are made and
scaled in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

FEW_ROWS = 16
"""Rows up to which the weights are the cost: they are read once, in long pieces."""


@triton.jit
def _finish(sums, scale, bias, output, mask, BIAS: tl.constexpr):
    """Scale and bias of the outputs `output`, an index tensor of the shape of `sums` or one that broadcasts to it."""
    sums = sums * tl.load(scale + output, mask=mask, other=0.0)
    if BIAS:
        sums += tl.load(bias + output, mask=mask, other=0.0).to(tl.float32)
    return sums


@triton.jit
def _one_row(x, weight, scale, bias, out, outputs, inputs, BIAS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr):
    """One program OUT outputs of the only row; sums stay apart until the end."""
    output = tl.program_id(0) * OUT + tl.arange(0, OUT)
    exists = output < outputs
    source = weight + output.to(tl.int64)[:, None] * inputs
    sums = tl.zeros([OUT, IN], tl.float32)
    for start in range(0, inputs, IN):
        input = start + tl.arange(0, IN)
        inside = input < inputs
        w = tl.load(source + input[None, :], mask=exists[:, None] & inside[None, :], other=0)
        sums += w.to(tl.float32) * tl.load(x + input, mask=inside, other=0.0).to(tl.float32)[None, :]
    sum = _finish(tl.sum(sums, axis=1), scale, bias, output, exists, BIAS)
    tl.store(out + output, sum.to(out.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["rows"])
def _many_rows(
    x, weight, scale, bias, out, rows, outputs, inputs,
    BIAS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program OUT outputs of ROWS rows, transposed: weights are widened in registers, where the first factor is."""
    output = tl.program_id(0) * OUT + tl.arange(0, OUT)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    exists, wanted = (output < outputs)[:, None], (row < rows)[None, :]
    from_weight = weight + output.to(tl.int64)[:, None] * inputs
    from_x = x + row.to(tl.int64)[None, :] * inputs
    sums = tl.zeros([OUT, ROWS], tl.float32)
    for start in range(0, inputs, IN):
        input = start + tl.arange(0, IN)
        inside = input < inputs
        w = tl.load(from_weight + input[None, :], mask=exists & inside[None, :], other=0)
        columns = tl.load(from_x + input[:, None], mask=inside[:, None] & wanted, other=0.0)
        sums += tl.dot(w.to(columns.dtype), columns, input_precision="ieee")
    sums = _finish(sums, scale, bias, output[:, None], exists, BIAS)
    to = out + row.to(tl.int64)[None, :] * outputs + output[:, None]
    tl.store(to, sums.to(out.dtype.element_ty), mask=exists & wanted)


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """`x [rows, in]` times `weight [out, in]` (int8) transposed, times `scale [out]` (float32), plus `bias [out]`.

    Returns `[rows, out]` in the dtype of `x`.
    """
    (rows, inputs), outputs = x.shape, weight.shape[0]
    out = x.new_empty(rows, outputs)
    added, has_bias = scale if bias is None else bias, bias is not None
    if rows == 1:
        block = min(triton.next_power_of_2(inputs), 1024)
        _one_row[(triton.cdiv(outputs, 8),)](
            x, weight, scale, added, out, outputs, inputs, BIAS=has_bias, OUT=8, IN=block
        )
        return out
    few = rows <= FEW_ROWS
    wide, tall = (32, FEW_ROWS) if few else (128, 64)
    deep = (512 if few else 128) // x.dtype.itemsize  # three stages of both factors fit in any GPU's shared memory
    _many_rows[(triton.cdiv(outputs, wide), triton.cdiv(rows, tall))](
        x, weight, scale, added, out, rows, outputs, inputs,
        BIAS=has_bias, OUT=wide, IN=deep, ROWS=tall, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out
