"""The gate of an MLP (arXiv:2002.05202)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _gate(gate_up, out, inner, BLOCK: tl.constexpr):
    """One program a row and BLOCK columns."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < inner
    source = gate_up + row * 2 * inner + columns
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + inner, mask=inside, other=0.0).to(tl.float32)
    power = tl.exp(-tl.abs(gate))  # never overflows
    silu = gate * tl.where(gate < 0, power, 1.0) / (1.0 + power)
    tl.store(out + row * inner + columns, (silu * up).to(out.dtype.element_ty), mask=inside)


def gate(gate_up: Tensor) -> Tensor:
    """`[rows, 2 * inner]`, gate and up side by side, to `silu(gate) * up [rows, inner]`, computed in float32."""
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, inner)
    _gate[(rows, triton.cdiv(inner, BLOCK))](gate_up, out, inner, BLOCK=BLOCK)
    return out
