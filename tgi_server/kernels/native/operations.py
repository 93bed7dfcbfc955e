"""The compiled kernels for the operations that `kernels.operations` declares, and for the choice of a token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi_server.kernels.attention import LayerCache
from tgi_server.kernels.native.calls import call, empty
from tgi_server.kernels.native.layout import NAMES
from tgi_server.kernels.operations import FREE, Activation, Angles, Clamp, Norm, NormKind
from tgi_server.kernels.sampling import SamplingRows

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


def sample(logits: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels.sampling.sample`."""
    (count, size), (stride, step) = logits.shape, logits.stride()
    if step != 1:
        raise ValueError("the scores of a row do not lie side by side")
    tokens, logprobs, normalisers = (empty((count,), dtype) for dtype in (torch.int64, torch.float32, torch.float32))
    records, texts = np.ascontiguousarray(rows.rows), np.ascontiguousarray(rows.texts)
    bias, masks = rows.bias, rows.masks
    added = (0, 0, 0) if bias is None else (_address(bias.starts), _address(bias.ids), _address(bias.values))
    call(
        "sample_float32", logits.numel(), logits.data_ptr(), _address(records), _address(texts), *added, masks, tokens,
        logprobs, normalisers, count, size, stride, texts.shape[1], 0 if masks is None else masks.shape[1], rows.gamma,
        rows.delta,
    )  # fmt: skip
    return tokens, logprobs, normalisers


def _address(array: npt.NDArray[Any]) -> int:
    return array.ctypes.data


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
