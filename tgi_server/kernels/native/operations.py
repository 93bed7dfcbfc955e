"""The compiled kernels for the operations that `kernels.operations` declares, and for the choice of a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tgi_server.kernels import plain
from tgi_server.kernels.attention import LayerCache
from tgi_server.kernels.native.calls import call, empty
from tgi_server.kernels.native.layout import NAMES
from tgi_server.kernels.operations import FREE, Activation, Angles, Clamp, Norm, NormKind

_NONE = (-1, None, None, 0.0)


def add_norm(
    residual: Tensor, x: Tensor | None, norm: Norm | None, dtype: torch.dtype, post: Norm | None = None,
    scale: float = 1.0,
) -> Tensor | None:  # fmt: skip
    """See `kernels.operations.add_norm`."""
    rows, size = residual.shape
    out = None if norm is None else empty((rows, size), dtype)
    name = f"add_norm_{NAMES[dtype]}"
    call(name, rows * size, residual, x, out, rows, size, scale, *_members(norm), *_members(post))
    return out


def mean_squares(qkv: Tensor, sizes: tuple[int, int], totals: tuple[int, int]) -> Tensor:
    """See `kernels.operations.mean_squares`."""
    rows, size = qkv.shape
    out = empty((rows, 2), torch.float32)
    call(f"mean_squares_{NAMES[qkv.dtype]}", rows * sum(sizes), qkv, out, rows, size, *sizes, *totals)
    return out


def rotate_store(
    qkv: Tensor, angles: Angles | None, slots: Tensor, cache: LayerCache, heads: int, query_norm: Norm | None = None,
    key_norm: Norm | None = None, squares: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See `kernels.operations.rotate_store`; the value is a view of `qkv`."""
    rows, (_, kv, _, width), value_width = len(qkv), cache.keys.shape, cache.values.shape[-1]
    query, key = empty((rows, heads, width), qkv.dtype), empty((rows, kv, width), qkv.dtype)
    cos, sin, turned = (None, None, 0) if angles is None else (angles.cos, angles.sin, 2 * angles.cos.shape[-1])
    call(
        f"rotate_store_{NAMES[qkv.dtype]}", qkv.numel(), qkv, cos, sin, slots, squares, query, key, cache.keys,
        cache.values, rows, heads, kv, width, value_width, turned, *_members(query_norm), *_members(key_norm),
    )  # fmt: skip
    return query, key, qkv[:, (heads + kv) * width :].view(rows, kv, value_width)


def gate(x: Tensor, activation: Activation, gated: bool = True, clamp: Clamp = FREE) -> Tensor:
    """See `kernels.operations.gate`."""
    rows, inner = x.shape[0], x.shape[1] // (2 if gated else 1)
    out = empty((rows, inner), x.dtype)
    numbers = (clamp.slope, clamp.limit, clamp.offset)
    call(f"gate_{NAMES[x.dtype]}", rows * inner, x, out, rows, inner, activation, gated, *numbers)
    return out


def choose(
    logits: Tensor, seeds: Sequence[int], positions: Sequence[int], draws: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels.plain.choose`."""
    return plain.chosen(logits, *best(logits), seeds, positions, draws)


def best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of float32 `scores [rows, size]` the place of the largest (int64 `[rows]`), and the log-sum-exp."""
    if scores.stride(1) != 1:
        scores = scores.contiguous()
    rows, size = scores.shape
    places, normalisers = empty((rows,), torch.int64), empty((rows,), torch.float32)
    call("best_float32", scores.numel(), scores.data_ptr(), places, normalisers, rows, size, scores.stride(0))
    return places, normalisers


def _members(norm: Norm | None) -> tuple[int, Tensor | None, Tensor | None, float]:
    """A norm as the members of a kernel's arguments."""
    if norm is None:
        return _NONE
    if norm.kind is NormKind.IDENTITY:  # whatever weights it has
        return norm.kind, None, None, 0.0
    return norm.kind, _floats(norm.weight), _floats(norm.bias), norm.eps


def _floats(weight: Tensor | None) -> Tensor | None:
    if weight is not None and weight.dtype != torch.float32:
        raise ValueError(f"weights of a norm are float32, not {weight.dtype}")
    return weight
