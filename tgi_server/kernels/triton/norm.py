"""Addition to the residual stream and the norm of the sum in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.operations import Norm, NormKind

_NO_NORM = -1
_IDENTITY, _LAYER = tl.constexpr(int(NormKind.IDENTITY)), tl.constexpr(int(NormKind.LAYER))


@triton.jit
def _normed(row, weight, bias, size, eps, KIND: tl.constexpr, columns, inside):
    """The norm of a row, zeros outside; `weight` and `bias` may be None."""
    if KIND != _IDENTITY:
        if KIND == _LAYER:
            row = tl.where(inside, row - tl.sum(row, axis=0) / size, 0.0)
        row *= tl.rsqrt(tl.sum(row * row, axis=0) / size + eps)
        if weight is not None:
            row *= tl.load(weight + columns, mask=inside, other=0.0)
        if bias is not None:
            row += tl.load(bias + columns, mask=inside, other=0.0)
    return row


@triton.jit
def _add_norm(
    residual, x, out, size, scale, weight, bias, eps, post_weight, post_bias, post_eps,
    KIND: tl.constexpr, POST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a row, which it holds in registers. Kinds are those of NormKind; -1 is no norm at all."""
    start = tl.program_id(0).to(tl.int64) * size
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    row = tl.load(residual + start + columns, mask=inside, other=0.0)
    if x is not None:
        added = tl.load(x + start + columns, mask=inside, other=0.0).to(tl.float32)
        if POST >= 0:
            added = _normed(added, post_weight, post_bias, size, post_eps, POST, columns, inside)
        row += added * scale
        tl.store(residual + start + columns, row, mask=inside)
    if KIND >= 0:
        normed = _normed(row, weight, bias, size, eps, KIND, columns, inside)
        tl.store(out + start + columns, normed.to(out.dtype.element_ty), mask=inside)


def add_norm(
    residual: Tensor, x: Tensor | None, norm: Norm | None, dtype: torch.dtype, post: Norm | None = None,
    scale: float = 1.0,
) -> Tensor | None:  # fmt: skip
    """The operation `add_norm`."""
    rows, size = residual.shape
    out = None if norm is None else torch.empty(rows, size, dtype=dtype, device=residual.device)
    if x is None and out is None:
        return None
    block = triton.next_power_of_2(size)
    weight, bias, eps, kind = arguments(norm)
    post_weight, post_bias, post_eps, post_kind = arguments(post)
    _add_norm[(rows,)](
        residual, x, out, size, scale, weight, bias, eps, post_weight, post_bias, post_eps,
        KIND=kind, POST=post_kind, BLOCK=block, num_warps=min(max(block // 512, 1), 16),
    )  # fmt: skip
    return out


@triton.jit
def _mean_squares(qkv, out, stride, queries, keys, query_total, key_total, BLOCK: tl.constexpr):
    """One program a row and kind, of which 0 is queries."""
    row, kind = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start, size = tl.where(kind == 0, 0, queries), tl.where(kind == 0, queries, keys)
    column = tl.arange(0, BLOCK)
    x = tl.load(qkv + row * stride + start + column, mask=column < size, other=0.0).to(tl.float32)
    tl.store(out + 2 * row + kind, tl.sum(x * x, axis=0) / tl.where(kind == 0, query_total, key_total))


def mean_squares(qkv: Tensor, sizes: tuple[int, int], totals: tuple[int, int]) -> Tensor:
    """The operation `mean_squares`."""
    out = torch.empty(len(qkv), 2, dtype=torch.float32, device=qkv.device)
    block = triton.next_power_of_2(max(sizes))
    _mean_squares[(len(qkv), 2)](
        qkv, out, qkv.stride(0), *sizes, *totals, BLOCK=block, num_warps=min(max(block // 512, 1), 16)
    )
    return out


def arguments(norm: Norm | None) -> tuple[Tensor | None, Tensor | None, float, int]:
    """Weight, bias, eps and kind; -1 stands for no norm at all."""
    """Weight, bias, eps and kind; -1 stands for no norm at all."""
    return (None, None, 0.0, _NO_NORM) if norm is None else (norm.weight, norm.bias, norm.eps, int(norm.kind))
