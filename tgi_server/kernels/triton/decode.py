"""Attention of one new position a sequence over its paged context, long contexts in parts (Flash-Decoding).

The parts of what a position sees are attended to by programs of their own, each with its own softmax
(arXiv:2112.05682); a second kernel weighs them by their log-sum-exp. All lengths are read on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.attention import Features, LayerCache
from tgi_server.kernels.triton.scores import add_tile, arguments, biases_of, first_sums, masked_scores, slopes_of
from tgi_server.kernels.triton.support import padded, tile_rows

MOST_PARTS = 64
SHORTEST_PART = 128
"""Keys of a context for which another program is worth its start."""
PROGRAMS = 2
"""Programs wanted for each multiprocessor."""


@triton.jit(do_not_specialize=["stride", "parts", "window", "reach"])
def _decode(
    query, keys, values, tables, contexts, out, sums, stride, parts,
    slopes, sinks, biases, reach, scale, softcap, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    PARTED: tl.constexpr, ROWS: tl.constexpr, KEY_COLUMNS: tl.constexpr, VALUE_COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """One program a sequence, key head and part. `stride`: of tables. For features see `scores.arguments`."""
    sequence, kv_head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    row, key_column, value_column = tl.arange(0, ROWS), tl.arange(0, KEY_COLUMNS), tl.arange(0, VALUE_COLUMNS)
    in_group, in_key, in_value = row < GROUP, key_column < KEY, value_column < VALUE
    own_head = kv_head * GROUP + row
    head = sequence * (KV_HEADS * GROUP) + own_head
    q = tl.load(query + head[:, None] * KEY + key_column[None, :], mask=in_group[:, None] & in_key[None, :], other=0.0)

    context = tl.load(contexts + sequence).to(tl.int32)
    first = tl.maximum(context - window, 0)
    length = tl.cdiv(tl.cdiv(context - first, TILE), parts) * TILE
    begin = first + part * length
    end = tl.minimum(begin + length, context)
    position, last = tl.zeros([ROWS], tl.int32) + (context - 1), tl.zeros([ROWS], tl.int32) + (end - 1)
    slope = slopes_of(slopes, own_head, in_group)
    bias = biases_of(biases, own_head, in_group, reach)
    best, total, attended = first_sums(sinks, own_head, in_group, part == 0, ROWS, VALUE_COLUMNS)
    for start in range(begin, end, TILE):
        other = start + tl.arange(0, TILE)
        seen = other < end
        block = tl.load(tables + sequence * stride + other // BLOCK_SIZE, mask=seen, other=0)
        cell = (block * KV_HEADS + kv_head) * BLOCK_SIZE + other % BLOCK_SIZE
        to_key, to_value = keys + cell[None, :] * KEY, values + cell[:, None] * VALUE
        k = tl.load(to_key + key_column[:, None], mask=seen[None, :] & in_key[:, None], other=0.0)
        v = tl.load(to_value + value_column[None, :], mask=seen[:, None] & in_value[None, :], other=0.0)
        products = tl.dot(q, k, input_precision="ieee")
        scores = masked_scores(products, position, last, other, slope, bias, reach, scale, softcap, window)
        best, total, attended = add_tile(best, total, attended, scores, v)

    total = tl.where(total == 0.0, 1.0, total)  # of a part beyond the context: its `best` of -inf says so
    attended = attended / total[:, None]
    mask = in_group[:, None] & in_value[None, :]
    if PARTED:
        cell = head * parts + part
        tl.store(sums + cell, best + tl.log2(total), mask=in_group)
        tl.store(out + cell[:, None] * VALUE + value_column[None, :], attended, mask=mask)
    else:
        attended = attended.to(out.dtype.element_ty)
        tl.store(out + head[:, None] * VALUE + value_column[None, :], attended, mask=mask)


@triton.jit(do_not_specialize=["parts"])
def _weigh(parted, sums, out, parts, VALUE: tl.constexpr, MOST: tl.constexpr, COLUMNS: tl.constexpr):
    """One program a sequence and head."""
    head = tl.program_id(0).to(tl.int64)
    part, column = tl.arange(0, MOST), tl.arange(0, COLUMNS)
    used, in_head = part < parts, column < VALUE
    sum = tl.load(sums + head * parts + part, mask=used, other=float("-inf"))
    weight = tl.exp2(sum - tl.max(sum, axis=0))  # the first part is never empty
    source = parted + (head * parts + part[:, None]) * VALUE + column[None, :]
    each = tl.load(source, mask=used[:, None] & in_head[None, :], other=0.0)
    whole = tl.sum(weight[:, None] * each, axis=0) / tl.sum(weight, axis=0)
    tl.store(out + head * VALUE + column, whole.to(out.dtype.element_ty), mask=in_head)


def choose_parts(batch: int, kv_heads: int, longest: int, processors: int) -> int:
    """In how many parts to attend to up to `longest` positions, so that every processor is busy."""
    wanted = -(-PROGRAMS * processors // (batch * kv_heads))
    return min(max(wanted, 1), -(-longest // SHORTEST_PART), MOST_PARTS)


def decode(
    query: Tensor, cache: LayerCache, tables: Tensor, contexts: Tensor, features: Features, parts: int
) -> Tensor:
    """Attention of `query [sequences, heads, key_width]`, each row the last position of its own context.

    `tables [sequences, blocks]` (rows may lie apart) and `contexts [sequences]` (at least 1) int64. `parts`: see
    `choose_parts`; at most MOST_PARTS. Returns `[sequences, heads, value_width]`.
    """
    (sequences, heads, key), value = query.shape, cache.values.shape[-1]
    _, kv_heads, block_size, _ = cache.keys.shape
    out, group, columns = query.new_empty(sequences, heads, value), heads // kv_heads, padded(value)
    parted, sums = out, out
    if parts > 1:
        parted = torch.empty(sequences, heads, parts, value, dtype=torch.float32, device=query.device)
        sums = torch.empty(sequences, heads, parts, dtype=torch.float32, device=query.device)
    _decode[(sequences, kv_heads, parts)](
        query, cache.keys, cache.values, tables, contexts, parted, sums, tables.stride(0), parts, *arguments(features),
        KV_HEADS=kv_heads, GROUP=group, KEY=key, VALUE=value, BLOCK_SIZE=block_size, PARTED=parts > 1,
        ROWS=padded(group), KEY_COLUMNS=padded(key), VALUE_COLUMNS=columns,
        TILE=tile_rows(max(key, value), query.dtype), num_warps=4, num_stages=3,
    )  # fmt: skip
    if parts > 1:
        _weigh[(sequences * heads,)](parted, sums, out, parts, VALUE=value, MOST=MOST_PARTS, COLUMNS=columns)
    return out
