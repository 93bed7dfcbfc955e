"""Attention of one new position a sequence over its paged context, long contexts in parts (Flash-Decoding).

The parts of a context are attended to by programs of their own, each with its own softmax (arXiv:2112.05682); a second
kernel weighs them by their log-sum-exp. All lengths are read on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.triton.support import LOG2_E, padded, tile_rows

MOST_PARTS = 64
SHORTEST_PART = 128
"""Keys of a context for which another program is worth its start."""
PROGRAMS = 2
"""Programs wanted for each multiprocessor."""


@triton.jit(do_not_specialize=["width", "parts"])
def _decode(
    query, keys, values, tables, contexts, out, sums, width, parts, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, PARTED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program a sequence, key head and part. `scale` is that of the scores to base 2."""
    sequence, kv_head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    in_group, in_head = row < GROUP, column < DIM
    head = sequence * (KV_HEADS * GROUP) + kv_head * GROUP + row
    tile_mask = in_group[:, None] & in_head[None, :]
    q = tl.load(query + head[:, None] * DIM + column[None, :], mask=tile_mask, other=0.0)

    context = tl.load(contexts + sequence).to(tl.int32)
    length = tl.cdiv(tl.cdiv(context, TILE), parts) * TILE
    begin = part * length
    end = tl.minimum(begin + length, context)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    attended = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(begin, end, TILE):
        position = start + tl.arange(0, TILE)
        seen = position < end
        block = tl.load(tables + sequence * width + position // BLOCK_SIZE, mask=seen, other=0)
        cell = ((block * KV_HEADS + kv_head) * BLOCK_SIZE + position % BLOCK_SIZE) * DIM
        k = tl.load(keys + cell[None, :] + column[:, None], mask=seen[None, :] & in_head[:, None], other=0.0)
        v = tl.load(values + cell[:, None] + column[None, :], mask=seen[:, None] & in_head[None, :], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, axis=1))
        weight = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(best - higher)
        total = total * fade + tl.sum(weight, axis=1)
        attended = attended * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        best = higher

    total = tl.where(total == 0.0, 1.0, total)  # of a part beyond the context: its `best` of -inf says so
    attended = attended / total[:, None]
    if PARTED:
        cell = head * parts + part
        tl.store(sums + cell, best + tl.log2(total), mask=in_group)
        tl.store(out + cell[:, None] * DIM + column[None, :], attended, mask=tile_mask)
    else:
        attended = attended.to(out.dtype.element_ty)
        tl.store(out + head[:, None] * DIM + column[None, :], attended, mask=tile_mask)


@triton.jit(do_not_specialize=["parts"])
def _weigh(parted, sums, out, parts, DIM: tl.constexpr, MOST: tl.constexpr, COLUMNS: tl.constexpr):
    """One program a sequence and head."""
    head = tl.program_id(0).to(tl.int64)
    part, column = tl.arange(0, MOST), tl.arange(0, COLUMNS)
    used, in_head = part < parts, column < DIM
    sum = tl.load(sums + head * parts + part, mask=used, other=float("-inf"))
    weight = tl.exp2(sum - tl.max(sum, axis=0))  # the first part is never empty
    source = parted + (head * parts + part[:, None]) * DIM + column[None, :]
    each = tl.load(source, mask=used[:, None] & in_head[None, :], other=0.0)
    whole = tl.sum(weight[:, None] * each, axis=0) / tl.sum(weight, axis=0)
    tl.store(out + head * DIM + column, whole.to(out.dtype.element_ty), mask=in_head)


def choose_parts(batch: int, kv_heads: int, longest: int, processors: int) -> int:
    """In how many parts to attend to contexts of up to `longest` positions, so that every processor is busy."""
    wanted = -(-PROGRAMS * processors // (batch * kv_heads))
    return min(max(wanted, 1), -(-longest // SHORTEST_PART), MOST_PARTS)


def decode(query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, contexts: Tensor, parts: int) -> Tensor:
    """Scaled dot-product attention of `query [sequences, heads, dim]`, each row over its own context; the same shape.

    `keys`, `values` are `[blocks, kv_heads, BLOCK_SIZE, dim]`; `tables [sequences, blocks]` and `contexts [sequences]`
    (at least 1) int64. `parts`: see `choose_parts`; at most MOST_PARTS.
    """
    sequences, heads, dim = query.shape
    _, kv_heads, block_size, _ = keys.shape
    out, columns, group = torch.empty_like(query), padded(dim), heads // kv_heads
    parted, sums = out, out
    if parts > 1:
        parted = torch.empty(sequences, heads, parts, dim, dtype=torch.float32, device=query.device)
        sums = torch.empty(sequences, heads, parts, dtype=torch.float32, device=query.device)
    _decode[(sequences, kv_heads, parts)](
        query, keys, values, tables, contexts, parted, sums, tables.shape[1], parts, dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim, BLOCK_SIZE=block_size, PARTED=parts > 1,
        ROWS=padded(group), COLUMNS=columns, TILE=tile_rows(dim, keys.dtype), num_warps=4, num_stages=3,
    )  # fmt: skip
    if parts > 1:
        _weigh[(sequences * heads,)](parted, sums, out, parts, DIM=dim, MOST=MOST_PARTS, COLUMNS=columns)
    return out
