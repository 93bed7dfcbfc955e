"""Addition to the residual stream and RMS norm (arXiv:1910.07467) in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_norm(residual, x, weight, out, size, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """One program a row, which it holds in registers."""
    start = tl.program_id(0).to(tl.int64) * size
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    row = tl.load(residual + start + columns, mask=inside, other=0.0)
    if ADD:
        row += tl.load(x + start + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + start + columns, row, mask=inside)
    scale = tl.rsqrt(tl.sum(row * row, axis=0) / size + eps)
    weights = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + columns, (row * scale * weights).to(out.dtype.element_ty), mask=inside)


def add_norm(residual: Tensor, x: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Add `x [rows, size]` to the float32 `residual` in place; return its RMS norm times `weight [size]` in `dtype`."""
    rows, size = residual.shape
    out = torch.empty(rows, size, dtype=dtype, device=residual.device)
    block = triton.next_power_of_2(size)
    added = residual if x is None else x
    warps = min(max(block // 512, 1), 16)
    _add_norm[(rows,)](residual, added, weight, out, size, eps, ADD=x is not None, BLOCK=block, num_warps=warps)
    return out
