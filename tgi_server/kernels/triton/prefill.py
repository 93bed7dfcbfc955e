"""Attention of any number of new positions a sequence over its paged context (arXiv:2205.14135, 2307.08691).

The query heads that share a key head are rows of one tile, so that each key is read once for all of them. All lengths
are read on the device.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.attention import Features, LayerCache
from tgi_server.kernels.triton.scores import add_tile, arguments, biases_of, first_sums, masked_scores, slopes_of
from tgi_server.kernels.triton.support import padded, tile_rows


@triton.jit
def _owner(starts, tile, batch, halvings, POSITIONS: tl.constexpr):
    """The sequence that owns a tile, found by bisection.

    Sequence i owns the tiles from `starts[i] // POSITIONS + i` on: as many as it can need, some of them empty.
    """
    sequence, beyond = tile * 0, tile * 0 + batch
    for _ in range(halvings):
        middle = (sequence + beyond) // 2
        owned = tl.load(starts + middle).to(tl.int32) // POSITIONS + middle <= tile
        sequence = tl.where(owned, middle, sequence)
        beyond = tl.where(owned, beyond, middle)
    return sequence


@triton.jit(do_not_specialize=["batch", "stride", "halvings", "causal", "window", "reach"])
def _prefill(
    query, keys, values, tables, starts, contexts, out, batch, stride, halvings, causal,
    slopes, sinks, biases, reach, scale, softcap, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, KEY_COLUMNS: tl.constexpr, VALUE_COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program a tile of new positions and key head. `stride`: of tables. For features see `scores.arguments`."""
    POSITIONS: tl.constexpr = ROWS // GROUP
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    sequence = _owner(starts, tile, batch, halvings, POSITIONS)
    first_row = tl.load(starts + sequence)
    length = (tl.load(starts + sequence + 1) - first_row).to(tl.int32)
    context = tl.load(contexts + sequence).to(tl.int32)
    first = (tile - (first_row // POSITIONS).to(tl.int32) - sequence) * POSITIONS
    if first < length:
        row, key_column, value_column = tl.arange(0, ROWS), tl.arange(0, KEY_COLUMNS), tl.arange(0, VALUE_COLUMNS)
        new = first + row // GROUP
        in_tile, in_key, in_value = (row < POSITIONS * GROUP) & (new < length), key_column < KEY, value_column < VALUE
        own_head = kv_head * GROUP + row % GROUP
        head = (first_row + new) * (KV_HEADS * GROUP) + own_head
        to_query = query + head[:, None] * KEY + key_column[None, :]
        q = tl.load(to_query, mask=in_tile[:, None] & in_key[None, :], other=0.0)

        position = context - length + new
        last = tl.where(causal != 0, position, context - 1)
        begin = tl.maximum(context - length + first + 1 - window, 0)
        end = tl.where(causal != 0, context - length + tl.minimum(first + POSITIONS, length), context)
        table = tables + sequence.to(tl.int64) * stride
        slope = slopes_of(slopes, own_head, in_tile)
        bias = biases_of(biases, own_head, in_tile, reach)
        best, total, attended = first_sums(sinks, own_head, in_tile, True, ROWS, VALUE_COLUMNS)
        for start in range(begin, end, TILE):
            other = start + tl.arange(0, TILE)
            seen = other < end
            block = tl.load(table + other // BLOCK_SIZE, mask=seen, other=0)
            cell = (block * KV_HEADS + kv_head) * BLOCK_SIZE + other % BLOCK_SIZE
            to_key, to_value = keys + cell[None, :] * KEY, values + cell[:, None] * VALUE
            k = tl.load(to_key + key_column[:, None], mask=seen[None, :] & in_key[:, None], other=0.0)
            v = tl.load(to_value + value_column[None, :], mask=seen[:, None] & in_value[None, :], other=0.0)
            products = tl.dot(q, k, input_precision="ieee")
            scores = masked_scores(products, position, last, other, slope, bias, reach, scale, softcap, window)
            best, total, attended = add_tile(best, total, attended, scores, v)
        total = tl.where(total == 0.0, 1.0, total)  # of rows that are no position
        attended = (attended / total[:, None]).to(out.dtype.element_ty)
        to = out + head[:, None] * VALUE + value_column[None, :]
        tl.store(to, attended, mask=in_tile[:, None] & in_value[None, :])


def prefill(
    query: Tensor, cache: LayerCache, tables: Tensor, starts: Tensor, contexts: Tensor, features: Features
) -> Tensor:
    """Attention of `query [tokens, heads, key_width]`; returns `[tokens, heads, value_width]`.

    Rows `starts[i] : starts[i + 1]` are the last positions of the `contexts[i]` of sequence i, whose keys and values
    are all in the cache. `tables [sequences, blocks]` (rows may lie apart), `starts [sequences + 1]` and
    `contexts [sequences]` int64.
    """
    (tokens, heads, key), value = query.shape, cache.values.shape[-1]
    _, kv_heads, block_size, _ = cache.keys.shape
    out, batch, group = query.new_empty(tokens, heads, value), contexts.shape[0], heads // kv_heads
    tile = tile_rows(max(key, value), query.dtype)
    rows = max(tile, padded(group))
    tiles = tokens // (rows // group) + batch
    _prefill[(tiles, kv_heads)](
        query, cache.keys, cache.values, tables, starts, contexts, out,
        batch, tables.stride(0), batch.bit_length(), int(features.causal), *arguments(features),
        KV_HEADS=kv_heads, GROUP=group, KEY=key, VALUE=value, BLOCK_SIZE=block_size,
        ROWS=rows, KEY_COLUMNS=padded(key), VALUE_COLUMNS=padded(value), TILE=tile, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out
