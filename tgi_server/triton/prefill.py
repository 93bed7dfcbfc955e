"""Attention of any number of new positions a sequence over its paged context, causal (arXiv:2205.14135, 2307.08691).

The query heads that share a key head are rows of one tile, so that each key is read once for all of them. All lengths
are read on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.triton.support import LOG2_E, padded, tile_rows


@triton.jit(do_not_specialize=["batch", "width", "halvings"])
def _prefill(
    query, keys, values, tables, starts, contexts, out, batch, width, halvings, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program a tile of new positions and key head. `scale` is that of the scores to base 2.

    Sequence i owns the tiles from `starts[i] // POSITIONS + i` on: as many as it can need, some of them empty.
    """
    POSITIONS: tl.constexpr = ROWS // GROUP
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    sequence, beyond = tile * 0, tile * 0 + batch
    for _ in range(halvings):
        middle = (sequence + beyond) // 2
        owned = tl.load(starts + middle).to(tl.int32) // POSITIONS + middle <= tile
        sequence = tl.where(owned, middle, sequence)
        beyond = tl.where(owned, beyond, middle)

    first_row = tl.load(starts + sequence)
    length = (tl.load(starts + sequence + 1) - first_row).to(tl.int32)
    context = tl.load(contexts + sequence).to(tl.int32)
    first = (tile - (first_row // POSITIONS).to(tl.int32) - sequence) * POSITIONS
    if first < length:
        row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
        new = first + row // GROUP
        position = context - length + new
        in_head = column < DIM
        tile_mask = ((row < POSITIONS * GROUP) & (new < length))[:, None] & in_head[None, :]
        head = (first_row + new) * (KV_HEADS * GROUP) + kv_head * GROUP + row % GROUP
        q = tl.load(query + head[:, None] * DIM + column[None, :], mask=tile_mask, other=0.0)

        end = context - length + tl.minimum(first + POSITIONS, length)
        table = tables + sequence.to(tl.int64) * width
        best = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        attended = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in range(0, end, TILE):
            other = start + tl.arange(0, TILE)
            seen = other < end
            block = tl.load(table + other // BLOCK_SIZE, mask=seen, other=0)
            cell = ((block * KV_HEADS + kv_head) * BLOCK_SIZE + other % BLOCK_SIZE) * DIM
            k = tl.load(keys + cell[None, :] + column[:, None], mask=seen[None, :] & in_head[:, None], other=0.0)
            v = tl.load(values + cell[:, None] + column[None, :], mask=seen[:, None] & in_head[None, :], other=0.0)
            scores = tl.dot(q, k, input_precision="ieee") * scale
            scores = tl.where(other[None, :] <= position[:, None], scores, float("-inf"))
            higher = tl.maximum(best, tl.max(scores, axis=1))  # finite: every row sees position 0
            weight = tl.exp2(scores - higher[:, None])
            fade = tl.exp2(best - higher)
            total = total * fade + tl.sum(weight, axis=1)
            attended = attended * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
            best = higher
        attended = (attended / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + head[:, None] * DIM + column[None, :], attended, mask=tile_mask)


def prefill(query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, starts: Tensor, contexts: Tensor) -> Tensor:
    """Causal scaled dot-product attention of `query [tokens, heads, dim]`; returns the same shape.

    Rows `starts[i] : starts[i + 1]` are the last positions of the `contexts[i]` of sequence i, whose keys and values
    are all in the cache. `keys`, `values` are `[blocks, kv_heads, BLOCK_SIZE, dim]`; `tables [sequences, blocks]`,
    `starts [sequences + 1]` and `contexts [sequences]` int64.
    """
    tokens, heads, dim = query.shape
    _, kv_heads, block_size, _ = keys.shape
    out, batch, group = torch.empty_like(query), contexts.shape[0], heads // kv_heads
    tile = tile_rows(dim, keys.dtype)
    rows = max(tile, padded(group))
    tiles = tokens // (rows // group) + batch
    _prefill[(tiles, kv_heads)](
        query, keys, values, tables, starts, contexts, out,
        batch, tables.shape[1], batch.bit_length(), dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim, BLOCK_SIZE=block_size,
        ROWS=rows, COLUMNS=padded(dim), TILE=tile, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out
