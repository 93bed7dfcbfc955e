"""Rotary positions (arXiv:2104.09864, half-split layout) and the write to the paged cache in one pass."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rotate_store(
    qkv, cos, sin, positions, slots, query, key, keys, values,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HALF: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program a token and key head: its GROUP query heads, then the key, then the value, as rows of one tile."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    is_query, is_key, is_value = row < GROUP, row == GROUP, row == GROUP + 1
    inside = column < HALF
    any_row = (row < GROUP + 2) & inside

    query_head = head * GROUP + row
    first = tl.where(is_query, query_head, KV_HEADS * GROUP + head + tl.where(is_value, KV_HEADS, 0))
    heads: tl.constexpr = KV_HEADS * GROUP + 2 * KV_HEADS
    source = qkv + (token * heads + first) * (2 * HALF) + column
    left = tl.load(source, mask=any_row, other=0.0)
    right = tl.load(source + HALF, mask=any_row, other=0.0)

    angle = tl.load(positions + token) * HALF + column
    c = tl.load(cos + angle, mask=inside, other=0.0)
    s = tl.load(sin + angle, mask=inside, other=0.0)
    x, y = left.to(tl.float32), right.to(tl.float32)
    turned_left = (x * c - y * s).to(left.dtype)
    turned_right = (y * c + x * s).to(left.dtype)

    to_query = query + (token * (KV_HEADS * GROUP) + query_head) * (2 * HALF) + column
    tl.store(to_query, turned_left, mask=is_query & inside)
    tl.store(to_query + HALF, turned_right, mask=is_query & inside)
    slot = tl.load(slots + token)
    cell = ((slot // BLOCK_SIZE * KV_HEADS + head) * BLOCK_SIZE + slot % BLOCK_SIZE) * (2 * HALF) + row * 0 + column
    to_key = key + (token * KV_HEADS + head) * (2 * HALF) + row * 0 + column
    tl.store(to_key, turned_left, mask=is_key & inside)
    tl.store(to_key + HALF, turned_right, mask=is_key & inside)
    tl.store(keys + cell, turned_left, mask=is_key & inside)
    tl.store(keys + cell + HALF, turned_right, mask=is_key & inside)
    tl.store(values + cell, left, mask=is_value & inside)
    tl.store(values + cell + HALF, right, mask=is_value & inside)


def rotate_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, slots: Tensor, keys: Tensor, values: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate the queries and keys of `qkv [rows, (heads + 2 * kv_heads) * dim]`; store keys and values in the cache.

    `cos`, `sin` are float32 `[positions, dim / 2]`; `keys`, `values` `[blocks, kv_heads, BLOCK_SIZE, dim]`; `positions`
    and `slots` int64 `[rows]`. Returns query `[rows, heads, dim]`, key and value `[rows, kv_heads, dim]`.
    """
    rows, (_, kv_heads, block_size, dim) = qkv.shape[0], keys.shape
    query, key = qkv.new_empty(rows, heads, dim), qkv.new_empty(rows, kv_heads, dim)
    group = heads // kv_heads
    _rotate_store[(rows, kv_heads)](
        qkv, cos, sin, positions, slots, query, key, keys, values,
        KV_HEADS=kv_heads, GROUP=group, HALF=dim // 2, BLOCK_SIZE=block_size,
        ROWS=triton.next_power_of_2(group + 2), COLUMNS=triton.next_power_of_2(dim // 2), num_warps=2,
    )  # fmt: skip
    return query, key, qkv.view(rows, -1, dim)[:, heads + kv_heads :]
