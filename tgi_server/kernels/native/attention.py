"""Attention on a CPU that reads the paged cache in place, by the compiled kernel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tgi_server.kernels.attention import Attend, AttentionBatch, Features, LayerCache
from tgi_server.kernels.native.calls import call, empty, hold
from tgi_server.kernels.native.layout import NAMES
from tgi_server.types import BLOCK_SIZE

ROWS = 16
"""New positions of a sequence that share one reading of its keys: their sums have to fit a core's first cache."""
TASKS_PER_THREAD = 4
"""Pieces of attention a thread should find: contexts are cut where sequences and heads alone make fewer."""
_EVERYTHING = 1 << 40
"""A window that nothing lies before."""


def attention(batch: AttentionBatch) -> Attend:
    """See `kernels.attention.attention`. Rows of a sequence go in tiles, so that each key is read once for many."""
    most = min(ROWS, max(batch.query_lengths))
    tiles = _tiles(batch.query_lengths, most)

    def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, features: Features) -> Tensor:
        return _attend(batch, tiles, most, query, cache, features)

    return attend


def _tiles(lengths: list[int], most: int) -> Tensor:
    """Sequence, first new position and number of positions (at most `most`) of each piece of a step: int64 `[n, 3]`."""
    length = np.array(lengths, np.int64)
    pieces = -(-length // most)
    sequence = np.repeat(np.arange(len(length)), pieces)
    number = np.arange(len(sequence)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    offset = number * most
    return torch.from_numpy(np.stack([sequence, offset, np.minimum(most, length[sequence] - offset)], axis=1))


def _attend(
    batch: AttentionBatch, tiles: Tensor, most: int, query: Tensor, cache: LayerCache, features: Features
) -> Tensor:
    (rows, heads, width), (kv, value_width) = query.shape, cache.values.shape[1::2]
    parts, slots = _cut(len(tiles) * kv)
    scratch = empty((slots * most * (heads // kv) * (value_width + 2),), torch.float32)
    out = empty((rows, heads, value_width), query.dtype)
    table_width, window = batch.block_tables.shape[1], features.window or _EVERYTHING
    work = query.numel() * min(table_width, window // BLOCK_SIZE + 1)
    hold(tiles)
    call(
        f"attend_{NAMES[query.dtype]}", work, query, cache.keys, cache.values, batch.starts, batch.contexts,
        batch.block_tables, tiles, scratch, out, _each_head(features.slopes, heads), _each_head(features.sinks, heads),
        _biases(features, heads), table_width, len(tiles), most, parts, heads, kv, width, value_width, window,
        features.causal, features.reach, features.scale, features.softcap or 0.0,
    )  # fmt: skip
    return out


def _cut(tasks: int) -> tuple[int, int]:
    """Into how many parts contexts are cut, and how many pieces of scratch memory that takes."""
    threads = torch.get_num_threads()
    wanted = TASKS_PER_THREAD * threads
    parts = -(-wanted // tasks) if 0 < tasks < wanted else 1
    return parts, tasks * parts if parts > 1 else threads


def _each_head(numbers: Tensor | None, heads: int) -> Tensor | None:
    if numbers is not None and (numbers.dtype != torch.float32 or numbers.shape != (heads,)):
        raise ValueError(f"{heads} heads have one float32 each, not {numbers.dtype} {tuple(numbers.shape)}")
    return numbers


def _biases(features: Features, heads: int) -> Tensor | None:
    biases = features.biases
    if biases is not None and (biases.dtype != torch.float32 or biases.shape != (heads, 2 * features.reach + 1)):
        raise ValueError(f"{heads} heads have float32 biases each, not {biases.dtype} {tuple(biases.shape)}")
    return biases
