"""Attention of a step's new positions over their own cached contexts: what it takes and gives, and plain torch for it.

Positions of a sequence live in blocks of `BLOCK_SIZE`, found through its block table and read in place. What makes one
layer's attention differ from another's (`Features`) are values that every kernel takes at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tgi_server.types import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Features:
    """How one layer scores a key at position j for a query at position i.

    score = softcap(scale * q.k) + slope * (j - i) + bias[j - i], softcap(s) = softcap * tanh(s / softcap)

    Attributes:
        scale: factor of the product, usually 1 / sqrt(width of a key).
        window: positions that a query sees, its own included (Mistral, arXiv:2310.06825); None for all before it.
        softcap: bound of the scores (Gemma 2, arXiv:2408.00118); None for none.
        slopes: float32 `[heads]`, linear biases (ALiBi, arXiv:2108.12409); None for none.
        sinks: float32 `[heads]`, a score that takes part in the softmax and has no value (gpt-oss); None for none.
        causal: whether a query sees nothing after its own position; if not, it sees the whole context.
        biases: float32 `[heads, 2 * reach + 1]`, of the distances j - i from -reach to reach, which stand for all that
            are farther too (T5, arXiv:1910.10683); None for none.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    slopes: Tensor | None = None
    sinks: Tensor | None = None
    causal: bool = True
    biases: Tensor | None = None

    @property
    def reach(self) -> int:
        """The greatest distance that has a bias of its own."""
        return 0 if self.biases is None else self.biases.shape[1] // 2


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Where the new positions of a step stand, for the layers whose caches are addressed alike.

    Sequence i has `query_lengths[i]` new positions, the last of its `context_lengths[i]`. They are rows
    `query_starts[i] : query_starts[i + 1]` of the flattened step and live in the cache blocks `block_tables[i]`.

    Attributes:
        query_starts: int, B + 1 numbers, on the host.
        query_lengths: int, B numbers, on the host.
        context_lengths: int, B numbers, on the host. In a step that is recorded to be run again (shard/graphs.py) they
            are upper bounds.
        starts, contexts: the same as `query_starts` and `context_lengths`, int64 `[B + 1]` and `[B]` on the device;
            kernels read these.
        block_tables: int64 `[B, longest]`, padded with block 0. Of a layer with a window, blocks that lie before it may
            be anything.
        slots: int64 `[tokens]`, block * BLOCK_SIZE + offset where each new key and value goes.
    """

    query_starts: list[int]
    query_lengths: list[int]
    context_lengths: list[int]
    starts: Tensor
    contexts: Tensor
    block_tables: Tensor
    slots: Tensor

    def rows(self, i: int) -> slice:
        """The rows of sequence `i`."""
        return slice(self.query_starts[i], self.query_starts[i + 1])


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys `[blocks, kv_heads, BLOCK_SIZE, key_width]` and values `[blocks, kv_heads, BLOCK_SIZE, value_width]`.

    A layer that keeps states of fixed size has no heads, and `states`, each float32 `[blocks, ...]`.
    """

    keys: Tensor
    values: Tensor
    states: tuple[Tensor, ...] = field(default=(), kw_only=True)


Attend = Callable[[Tensor, Tensor, Tensor, LayerCache, Features], Tensor]
"""One layer's attention in a step.

`query [tokens, heads, key_width]` over its sequence's context; `key [tokens, kv_heads, key_width]` and
`value [tokens, kv_heads, value_width]` are the new ones, which are in the cache already; they have no rows where the
context has nothing new (cross-attention). Query head h reads key/value head h // (heads / kv_heads). Returns
`[tokens, heads, value_width]`.
"""

Begin = Callable[[AttentionBatch], Attend]
"""The operation `attention`: prepares a step once for all layers that share the batch."""


def attention(batch: AttentionBatch) -> Attend:
    """Plain torch: gathers the blocks. Decodes go in one padded call, every longer run (prefill) in one of its own."""
    singles = [i for i, n in enumerate(batch.query_lengths) if n == 1]
    runs = [_Run(batch, i) for i, n in enumerate(batch.query_lengths) if n > 1]
    decode = _Decode(batch, singles) if singles else None

    def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, features: Features) -> Tensor:
        result = query.new_empty(*query.shape[:2], cache.values.shape[-1])
        if decode is not None:
            result[decode.rows] = decode(query[decode.rows], cache, features)
        for run in runs:
            result[run.rows] = run(query[run.rows], cache, features)
        return result

    return attend


class _Decode:
    """One query row for each of the sequences `which`, their contexts padded to the longest."""

    def __init__(self, batch: AttentionBatch, which: list[int]) -> None:
        device = batch.block_tables.device
        longest = max(batch.context_lengths[i] for i in which)
        blocks = -(-longest // BLOCK_SIZE)
        lengths = torch.tensor([batch.context_lengths[i] for i in which], device=device)
        self.rows = [batch.query_starts[i] for i in which]
        self._tables = batch.block_tables[which, :blocks]
        self._positions = (lengths - 1).view(-1, 1, 1)
        self._keys = torch.arange(blocks * BLOCK_SIZE, device=device).view(1, 1, -1)
        self._beyond = (self._keys > self._positions).squeeze(1)[:, None, :, None]

    def __call__(self, query: Tensor, cache: LayerCache, features: Features) -> Tensor:
        """Query `[n, heads, key_width]` to `[n, heads, value_width]`."""
        keys, values = _gather(cache.keys, self._tables), _gather(cache.values, self._tables)
        for gathered in (keys, values):  # a mask does not silence what lies beyond a context when that is inf or NaN
            gathered.masked_fill_(self._beyond, 0.0)
        return attended(query.unsqueeze(2), keys, values, self._positions, self._keys, features).squeeze(2)


class _Run:
    """Several new positions of sequence `i`."""

    def __init__(self, batch: AttentionBatch, i: int) -> None:
        length, self._context = batch.query_lengths[i], batch.context_lengths[i]
        device = batch.block_tables.device
        self.rows = batch.rows(i)
        self._table = batch.block_tables[i : i + 1, : -(-self._context // BLOCK_SIZE)]
        self._positions = torch.arange(self._context - length, self._context, device=device).view(1, -1, 1)
        self._keys = torch.arange(self._context, device=device).view(1, 1, -1)

    def __call__(self, query: Tensor, cache: LayerCache, features: Features) -> Tensor:
        """Query `[n, heads, key_width]` to `[n, heads, value_width]`."""
        keys = _gather(cache.keys, self._table)[:, :, : self._context]
        values = _gather(cache.values, self._table)[:, :, : self._context]
        rows = query.transpose(0, 1).unsqueeze(0)
        return attended(rows, keys, values, self._positions, self._keys, features).squeeze(0).transpose(0, 1)


def attended(
    query: Tensor, keys: Tensor, values: Tensor, positions: Tensor, key_positions: Tensor, features: Features
) -> Tensor:
    """Attention over padded sequences, by the definition.

    `query [n, heads, rows, key_width]`, `keys`, `values` `[n, kv_heads, length, width]`; `positions [n, rows, 1]` and
    `key_positions [1, 1, length]` (int64). Keys after a sequence's last position have to be finite.
    Returns `[n, heads, rows, value_width]`.
    """
    seen = key_positions <= (positions if features.causal else positions.amax(dim=1, keepdim=True))
    if features.window is not None:
        seen = seen & (key_positions > positions - features.window)
        values = values.masked_fill(~seen.any(dim=1)[:, None, :, None], 0.0)  # of blocks given back: anything
        keys = keys.masked_fill(~seen.any(dim=1)[:, None, :, None], 0.0)
    mask: Tensor = seen.unsqueeze(1)
    added = _added(key_positions - positions, features)
    if added is not None:
        mask = added.masked_fill(~mask, -torch.inf)
    if added is None and features.softcap is None and features.sinks is None:
        return scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=features.scale, enable_gqa=True
        )  # fmt: skip
    return _by_definition(query, keys, values, mask, features)


def _added(distances: Tensor, features: Features) -> Tensor | None:
    """What is added to scores for `distances [n, rows, length]`: `[n, heads, rows, length]`, or None for nothing.

    In float32, as a distance times a slope is too long for 16 bits.
    """
    added = None if features.slopes is None else features.slopes.view(1, -1, 1, 1) * distances.unsqueeze(1)
    if features.biases is not None:
        biases = features.biases[:, distances.clamp(-features.reach, features.reach) + features.reach].transpose(0, 1)
        added = biases if added is None else added + biases
    return added


def _by_definition(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, features: Features) -> Tensor:
    """The same step by step, in float32; `mask` is bool, or what is added."""
    group = query.shape[1] // keys.shape[1]
    keys, values = (x.float().repeat_interleave(group, dim=1) for x in (keys, values))
    scores = query.float() @ keys.transpose(-1, -2) * features.scale
    if features.softcap is not None:
        scores = features.softcap * (scores / features.softcap).tanh()
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if features.sinks is not None:
        sinks = features.sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return (torch.cat((scores, sinks), -1).softmax(-1)[..., :-1] @ values).to(query.dtype)
    return (scores.softmax(-1) @ values).to(query.dtype)


def _gather(cache: Tensor, tables: Tensor) -> Tensor:
    """Blocks `[n, blocks]` of the cache as contiguous sequences `[n, kv_heads, blocks * BLOCK_SIZE, width]`."""
    n, blocks = tables.shape
    _, heads, size, width = cache.shape
    return cache[tables].transpose(1, 2).reshape(n, heads, blocks * size, width)  # always a copy
