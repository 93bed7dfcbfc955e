"""The operations of a decoder between its matrix products and its attention, each declared by plain torch for it.

The function is the declaration: its docstring gives shapes, dtypes and meaning, and every other implementation (the
rows of `table.py`) takes the same arguments and agrees with it. Attention is in `attention.py`, products in `plain.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

from tgi_server.kernels.attention import LayerCache


class NormKind(IntEnum):
    """What a norm does to a row; the numbers are those of the kernels."""

    IDENTITY = 0
    RMS = 1  # arXiv:1910.07467
    LAYER = 2  # arXiv:1607.06450


@dataclass(frozen=True, slots=True)
class Norm:
    """`(row - mean) / deviation * weight + bias`; an RMS norm takes no mean, the identity only changes the dtype.

    `weight` and `bias` are float32 `[size]`, or None for ones and zeros.
    """

    kind: NormKind
    eps: float = 0.0
    weight: Tensor | None = None
    bias: Tensor | None = None


class Activation(IntEnum):
    """The non-linearity of an MLP; the numbers are those of the kernels."""

    SILU = 0
    GELU = 1  # by the error function, arXiv:1606.08415
    GELU_TANH = 2  # its approximation by tanh
    RELU = 3


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.SILU: silu,
    Activation.GELU: gelu,
    Activation.GELU_TANH: lambda x: gelu(x, approximate="tanh"),
    Activation.RELU: relu,
}


@dataclass(frozen=True, slots=True)
class Clamp:
    """`activation(slope * gate) / slope * (up + offset)`, with gate at most `limit` and up from -limit to limit."""

    slope: float = 1.0
    limit: float = math.inf
    offset: float = 0.0


FREE = Clamp()
"""The usual gate."""


@dataclass(frozen=True, slots=True)
class Angles:
    """Cosines and sines of a step's rows, float32 `[tokens, turned / 2]`: the first `turned` numbers of a head turn."""

    cos: Tensor
    sin: Tensor


def add_norm(
    residual: Tensor, x: Tensor | None, norm: Norm | None, dtype: torch.dtype, post: Norm | None = None,
    scale: float = 1.0,
) -> Tensor | None:  # fmt: skip
    """Add `scale * post(x)` to the residual stream in place; return the norm of the sum.

    The residual stream is float32 whatever the serving dtype: sums over many layers lose too much in bfloat16.

    Args:
        residual: float32 `[tokens, hidden]`.
        x: `[tokens, hidden]` in the serving dtype; None adds nothing.
        norm: of the sum; None asks for the addition only.
        dtype: of the result.
        post: norm of `x` before it is added (Gemma 2); None for none.
        scale: of `x` (Granite).
    """
    if x is not None:
        added = x.float() if post is None else normed(x.float(), post)
        residual += added if scale == 1.0 else added * scale
    return None if norm is None else normed(residual, norm).to(dtype)


def normed(x: Tensor, norm: Norm) -> Tensor:
    """The norm of float32 rows `[..., size]`."""
    if norm.kind is NormKind.IDENTITY:
        return x
    if norm.kind is NormKind.LAYER:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
    normed = torch.nn.functional.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)
    return normed if norm.bias is None else normed + norm.bias


def mean_squares(qkv: Tensor, sizes: tuple[int, int], totals: tuple[int, int]) -> Tensor:
    """What a row's queries and keys add to the mean squares of all queries and all keys of its token.

    Args:
        qkv: `[tokens, size]`; each row begins with queries, then keys.
        sizes: how many numbers of each there are in it.
        totals: how many of each all ranks have together.

    Returns float32 `[tokens, 2]`, of which the sum over all ranks is the means.
    """
    parts = torch.split(qkv[:, : sum(sizes)].float(), list(sizes), dim=-1)
    return torch.stack([part.square().sum(-1) / total for part, total in zip(parts, totals, strict=True)], dim=-1)


def rotate_store(
    qkv: Tensor, angles: Angles | None, slots: Tensor, cache: LayerCache, heads: int, query_norm: Norm | None = None,
    key_norm: Norm | None = None, squares: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Split `qkv`, norm and turn its queries and keys, put keys and values in the cache.

    Rotary positions (arXiv:2104.09864) in the half-split layout: number i of a head turns with number i + turned / 2.

    Args:
        qkv: `[tokens, heads * key_width + kv_heads * (key_width + value_width)]`, queries, keys, values.
        angles: None where positions do not turn heads.
        slots: int64 `[tokens]`, block * BLOCK_SIZE + offset in the cache.
        cache: of the layer; its shapes give the widths and the number of key/value heads.
        heads: query heads.
        query_norm, key_norm: RMS norm of each head, weights `[key_width]`, before it turns (Qwen 3); None for none.
        squares: float32 `[tokens, 2]`, mean squares by which these norms divide in the place of each head's own: those
            of all queries and of all keys (OLMo 2). The weights are `[heads * key_width]` and `[kv_heads * key_width]`.

    Returns query `[tokens, heads, key_width]`, key `[tokens, kv_heads, key_width]`, value
    `[tokens, kv_heads, value_width]`.
    """
    (_, kv_heads, block_size, width), value_width = cache.keys.shape, cache.values.shape[-1]
    parts = torch.split(qkv, [heads * width, kv_heads * width, kv_heads * value_width], dim=-1)
    query, key = (x.view(len(qkv), -1, width) for x in parts[:2])
    value = parts[2].view(len(qkv), kv_heads, value_width)
    means = [None, None] if squares is None else squares.unbind(-1)
    query, key = _turned(query, query_norm, angles, means[0]), _turned(key, key_norm, angles, means[1])
    block, offset = slots // block_size, slots % block_size
    cache.keys[block, :, offset] = key
    cache.values[block, :, offset] = value
    return query, key, value


def _turned(x: Tensor, norm: Norm | None, angles: Angles | None, square: Tensor | None) -> Tensor:
    """Heads `[tokens, heads, width]`, computed in float32."""
    if norm is None and angles is None:
        return x
    wide = x.float()
    if norm is not None and square is not None:
        wide = wide * torch.rsqrt(square + norm.eps).view(-1, 1, 1)
        wide = wide if norm.weight is None else wide * norm.weight.view(x.shape[1:])
    elif norm is not None:
        wide = normed(wide, norm)
    if angles is not None:
        turned = 2 * angles.cos.shape[-1]
        cos, sin = angles.cos.unsqueeze(1), angles.sin.unsqueeze(1)
        left, right = wide[..., :turned].chunk(2, dim=-1)
        wide = torch.cat((left * cos - right * sin, right * cos + left * sin, wide[..., turned:]), dim=-1)
    return wide.to(x.dtype)


def gate(x: Tensor, activation: Activation, gated: bool = True, clamp: Clamp = FREE) -> Tensor:
    """`[tokens, 2 * inner]`, gate and up side by side, to `activation(gate) * up [tokens, inner]` (arXiv:2002.05202).

    Without `gated`, `[tokens, inner]` to `activation(x)`. What `clamp` changes of gate and up is said there.
    """
    act = _ACTIVATIONS[activation]
    if not gated:
        return act(x)
    gate, up = x.chunk(2, dim=-1)
    if clamp == FREE:
        return act(gate) * up
    gate, up = gate.clamp(max=clamp.limit), up.clamp(-clamp.limit, clamp.limit)
    return act(gate * clamp.slope) / clamp.slope * (up + clamp.offset)
