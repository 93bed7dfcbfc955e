"""Norms of heads, rotary positions (arXiv:2104.09864, half-split layout) and the write to the cache in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.attention import LayerCache
from tgi_server.kernels.operations import Angles, Norm


@triton.jit
def _put(x, to, copy, column, mask):
    """Store at `column` of the rows that begin at `to`, and of those at `copy` unless that is None."""
    x = x.to(to.dtype.element_ty)
    tl.store(to + column, x, mask=mask)
    if copy is not None:
        tl.store(copy + column, x, mask=mask)


@triton.jit
def _turn(
    source, to, copy, exists, cos, sin, weight, eps,
    WIDTH: tl.constexpr, HALF: tl.constexpr, TURNED: tl.constexpr, STILL: tl.constexpr,
):  # fmt: skip
    """Norm and turn the heads that begin at `source [rows, 1]`; see `_put` for where they go.

    `cos` and `sin` are those of the token. Each half of the numbers that turn is held in TURNED columns, the rest of
    the head in STILL ones; 0 where there are none.
    """
    squares = tl.zeros_like(exists).to(tl.float32)
    if TURNED > 0:
        near = tl.arange(0, TURNED)[None, :]
        in_half = near < HALF
        left = tl.load(source + near, mask=exists & in_half, other=0.0).to(tl.float32)
        right = tl.load(source + HALF + near, mask=exists & in_half, other=0.0).to(tl.float32)
        squares += tl.sum(left * left + right * right, axis=1, keep_dims=True)
    if STILL > 0:
        far = 2 * HALF + tl.arange(0, STILL)[None, :]
        in_rest = far < WIDTH
        rest = tl.load(source + far, mask=exists & in_rest, other=0.0).to(tl.float32)
        squares += tl.sum(rest * rest, axis=1, keep_dims=True)

    if weight is not None:
        factor = tl.rsqrt(squares / WIDTH + eps)
    if TURNED > 0:
        if weight is not None:
            left *= factor * tl.load(weight + near, mask=in_half, other=0.0)
            right *= factor * tl.load(weight + HALF + near, mask=in_half, other=0.0)
        c = tl.load(cos + near, mask=in_half, other=0.0)
        s = tl.load(sin + near, mask=in_half, other=0.0)
        _put(left * c - right * s, to, copy, near, exists & in_half)
        _put(right * c + left * s, to, copy, HALF + near, exists & in_half)
    if STILL > 0:
        if weight is not None:
            rest *= factor * tl.load(weight + far, mask=in_rest, other=0.0)
        _put(rest, to, copy, far, exists & in_rest)


@triton.jit
def _rotate_store(
    qkv, cos, sin, slots, query, key, keys, values, query_weight, query_eps, key_weight, key_eps,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HALF: tl.constexpr, TURNED: tl.constexpr, STILL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program a token and key head: its GROUP query heads as rows of one tile, then the key, then the value."""
    HEADS: tl.constexpr = KV_HEADS * GROUP
    token, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    source = qkv + token * (HEADS * WIDTH + KV_HEADS * (WIDTH + VALUE))
    if cos is not None:
        cos += token * HALF
        sin += token * HALF
    row = tl.arange(0, ROWS)[:, None]
    own_head = kv_head * GROUP + row
    to_query = query + (token * HEADS + own_head) * WIDTH
    _turn(
        source + own_head * WIDTH, to_query, None, row < GROUP, cos, sin, query_weight, query_eps,
        WIDTH, HALF, TURNED, STILL,
    )  # fmt: skip

    slot = tl.load(slots + token)
    cell = (slot // BLOCK_SIZE * KV_HEADS + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE
    one = tl.arange(0, 1)[:, None]
    _turn(
        source + (HEADS + kv_head) * WIDTH + one, key + (token * KV_HEADS + kv_head) * WIDTH + one,
        keys + cell * WIDTH + one, one == 0, cos, sin, key_weight, key_eps, WIDTH, HALF, TURNED, STILL,
    )  # fmt: skip

    column = tl.arange(0, COLUMNS)
    value = tl.load(source + (HEADS + KV_HEADS) * WIDTH + kv_head * VALUE + column, mask=column < VALUE, other=0.0)
    tl.store(values + cell * VALUE + column, value, mask=column < VALUE)


def rotate_store(
    qkv: Tensor, angles: Angles | None, slots: Tensor, cache: LayerCache, heads: int, query_norm: Norm | None = None,
    key_norm: Norm | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operation `rotate_store`; the value it returns is part of `qkv`."""
    rows, (_, kv_heads, block_size, width), value_width = len(qkv), cache.keys.shape, cache.values.shape[-1]
    query, key = qkv.new_empty(rows, heads, width), qkv.new_empty(rows, kv_heads, width)
    cos, sin = (None, None) if angles is None else (angles.cos, angles.sin)
    half, group = 0 if angles is None else angles.cos.shape[-1], heads // kv_heads
    _rotate_store[(rows, kv_heads)](
        qkv, cos, sin, slots, query, key, cache.keys, cache.values,
        *_arguments(query_norm, cache.keys), *_arguments(key_norm, cache.keys),
        KV_HEADS=kv_heads, GROUP=group, WIDTH=width, VALUE=value_width, BLOCK_SIZE=block_size,
        HALF=half, TURNED=_columns(half), STILL=_columns(width - 2 * half),
        ROWS=triton.next_power_of_2(group), COLUMNS=_columns(value_width), num_warps=2,
    )  # fmt: skip
    return query, key, qkv[:, (heads + kv_heads) * width :].view(rows, kv_heads, value_width)


def _arguments(norm: Norm | None, keys: Tensor) -> tuple[Tensor | None, float]:
    """Weight and eps of a norm; no weight stands for no norm."""
    if norm is None:
        return None, 0.0
    weight = norm.weight
    if weight is None:
        weight = torch.ones(keys.shape[-1], dtype=torch.float32, device=keys.device)
    return weight, norm.eps


def _columns(size: int) -> int:
    return int(triton.next_power_of_2(size)) if size else 0
