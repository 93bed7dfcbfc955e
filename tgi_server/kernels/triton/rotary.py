"""Norms of heads, rotary positions (arXiv:2104.09864, half-split layout) and the write to the cache in one pass."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.attention import LayerCache
from tgi_server.kernels.operations import Angles, Norm, NormKind
from tgi_server.kernels.triton.norm import arguments

TILE = 512
"""Numbers of the queries in a program, if one key head has no more of them."""
_IDENTITY, _LAYER = tl.constexpr(int(NormKind.IDENTITY)), tl.constexpr(int(NormKind.LAYER))


@triton.jit
def _put(x, to, copy, column, mask):
    """Store at `column` of the rows that begin at `to`, and of those at `copy` unless that is None."""
    x = x.to(to.dtype.element_ty)
    tl.store(to + column, x, mask=mask)
    if copy is not None:
        tl.store(copy + column, x, mask=mask)


@triton.jit
def _scaled(x, factor, weight, bias, column, mask):
    """Numbers of a norm's rows times the factors of these rows, weighed and moved; `weight` and `bias` may be None."""
    x *= factor
    if weight is not None:
        x *= tl.load(weight + column, mask=mask, other=0.0)
    if bias is not None:
        x += tl.load(bias + column, mask=mask, other=0.0)
    return x


@triton.jit
def _at_heads(weight, head, WIDTH: tl.constexpr):
    """Where the weights of each head begin; None where there are none."""
    if weight is None:
        return None
    else:  # noqa: RET505 (known when it is compiled)
        return weight + head * WIDTH


@triton.jit
def _turn(
    source, to, copy, exists, cos, sin, weight, bias, eps, square,
    KIND: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr, TURNED: tl.constexpr, STILL: tl.constexpr,
):  # fmt: skip
    """Norm and turn the heads that begin at `source [rows, 1]`; see `_put` for where they go.

    `cos` and `sin` are those of the token. Each half of the numbers that turn is held in TURNED columns, the rest of
    the head in STILL ones; 0 where there are none. KIND is that of the norm, -1 for none. `square` is the mean square
    that the norm divides by, and `weight [rows, 1]` then where each head's weights begin; None for each head's own.
    """
    if TURNED > 0:
        near = tl.arange(0, TURNED)[None, :]
        in_half = near < HALF
        left = tl.load(source + near, mask=exists & in_half, other=0.0).to(tl.float32)
        right = tl.load(source + HALF + near, mask=exists & in_half, other=0.0).to(tl.float32)
    if STILL > 0:
        far = 2 * HALF + tl.arange(0, STILL)[None, :]
        in_rest = far < WIDTH
        rest = tl.load(source + far, mask=exists & in_rest, other=0.0).to(tl.float32)

    if KIND > _IDENTITY:
        zero = tl.zeros_like(exists).to(tl.float32)
        if KIND == _LAYER:
            sum = zero
            if TURNED > 0:
                sum += tl.sum(left + right, axis=1, keep_dims=True)
            if STILL > 0:
                sum += tl.sum(rest, axis=1, keep_dims=True)
            mean = sum / WIDTH
            if TURNED > 0:
                left, right = tl.where(in_half, left - mean, 0.0), tl.where(in_half, right - mean, 0.0)
            if STILL > 0:
                rest = tl.where(in_rest, rest - mean, 0.0)
        squares = zero
        if TURNED > 0:
            squares += tl.sum(left * left + right * right, axis=1, keep_dims=True)
        if STILL > 0:
            squares += tl.sum(rest * rest, axis=1, keep_dims=True)
        factor = tl.rsqrt(squares / WIDTH + eps)
        if square is not None:
            factor = tl.rsqrt(square + eps)
        if TURNED > 0:
            here = in_half if square is None else exists & in_half
            left = _scaled(left, factor, weight, bias, near, here)
            right = _scaled(right, factor, weight, bias, HALF + near, here)
        if STILL > 0:
            here = in_rest if square is None else exists & in_rest
            rest = _scaled(rest, factor, weight, bias, far, here)

    if TURNED > 0:
        c = tl.load(cos + near, mask=in_half, other=0.0)
        s = tl.load(sin + near, mask=in_half, other=0.0)
        _put(left * c - right * s, to, copy, near, exists & in_half)
        _put(right * c + left * s, to, copy, HALF + near, exists & in_half)
    if STILL > 0:
        _put(rest, to, copy, far, exists & in_rest)


@triton.jit
def _rotate_store(
    qkv, cos, sin, slots, query, key, keys, values,
    query_weight, query_bias, query_eps, key_weight, key_bias, key_eps, squares,
    QUERY_KIND: tl.constexpr, KEY_KIND: tl.constexpr,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HALF: tl.constexpr, TURNED: tl.constexpr, STILL: tl.constexpr, COLUMNS: tl.constexpr,
    OWN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program a token and OWN key heads: their query heads in ROWS rows of a tile, then the keys, the values."""
    HEADS: tl.constexpr = KV_HEADS * GROUP
    token, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * OWN
    source = qkv + token * (HEADS * WIDTH + KV_HEADS * (WIDTH + VALUE))
    if cos is not None:
        cos += token * HALF
        sin += token * HALF
    row = tl.arange(0, ROWS)[:, None]
    head = first * GROUP + row
    kv_head = first + tl.arange(0, OWN)[:, None]
    query_square, key_square = None, None
    if squares is not None:
        query_square, key_square = tl.load(squares + 2 * token), tl.load(squares + 2 * token + 1)
        query_weight = _at_heads(query_weight, head, WIDTH)
        key_weight = _at_heads(key_weight, kv_head, WIDTH)
    _turn(
        source + head * WIDTH, query + (token * HEADS + head) * WIDTH, None, (row < OWN * GROUP) & (head < HEADS),
        cos, sin, query_weight, query_bias, query_eps, query_square, QUERY_KIND, WIDTH, HALF, TURNED, STILL,
    )  # fmt: skip

    slot = tl.load(slots + token)
    exists = kv_head < KV_HEADS
    cell = (slot // BLOCK_SIZE * KV_HEADS + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE
    _turn(
        source + (HEADS + kv_head) * WIDTH, key + (token * KV_HEADS + kv_head) * WIDTH, keys + cell * WIDTH, exists,
        cos, sin, key_weight, key_bias, key_eps, key_square, KEY_KIND, WIDTH, HALF, TURNED, STILL,
    )  # fmt: skip

    column = tl.arange(0, COLUMNS)[None, :]
    mask = exists & (column < VALUE)
    value = tl.load(source + (HEADS + KV_HEADS) * WIDTH + kv_head * VALUE + column, mask=mask, other=0.0)
    tl.store(values + cell * VALUE + column, value, mask=mask)


def rotate_store(
    qkv: Tensor, angles: Angles | None, slots: Tensor, cache: LayerCache, heads: int, query_norm: Norm | None = None,
    key_norm: Norm | None = None, squares: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operation `rotate_store`; the value it returns is part of `qkv`."""
    rows, (_, kv_heads, block_size, width), value_width = len(qkv), cache.keys.shape, cache.values.shape[-1]
    query, key = qkv.new_empty(rows, heads, width), qkv.new_empty(rows, kv_heads, width)
    cos, sin = (None, None) if angles is None else (angles.cos, angles.sin)
    half, group = 0 if angles is None else angles.cos.shape[-1], heads // kv_heads
    lines = max(group, 1)  # in the tile of a key head: cross-attention stores keys without queries
    own = min(max(TILE // (_padded(lines) * _padded(width)), 1), _padded(kv_heads))
    *of_query, query_kind = arguments(query_norm)
    *of_key, key_kind = arguments(key_norm)
    _rotate_store[(rows, triton.cdiv(kv_heads, own))](
        qkv, cos, sin, slots, query, key, cache.keys, cache.values, *of_query, *of_key, squares,
        QUERY_KIND=query_kind, KEY_KIND=key_kind,
        KV_HEADS=kv_heads, GROUP=group, WIDTH=width, VALUE=value_width, BLOCK_SIZE=block_size,
        HALF=half, TURNED=_padded(half), STILL=_padded(width - 2 * half), COLUMNS=_padded(value_width),
        OWN=own, ROWS=_padded(own * lines), num_warps=2,
    )  # fmt: skip
    return query, key, qkv[:, (heads + kv_heads) * width :].view(rows, kv_heads, value_width)


def _padded(size: int) -> int:
    """The power of two that holds `size`, 0 for none."""
    return int(triton.next_power_of_2(size)) if size else 0
