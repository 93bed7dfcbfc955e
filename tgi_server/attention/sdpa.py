"""Attention in plain torch: gather the blocks, call scaled_dot_product_attention. Runs everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgi_server.types import BLOCK_SIZE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tgi_server.attention.base import Attend, AttentionBatch, LayerCache


@dataclass
class SdpaAttention:
    """All single new positions (decode) go in one padded call; every longer run (prefill) in one of its own."""

    recordable = False

    def unsupported(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
        """Runs everywhere."""
        return []

    def begin(self, batch: AttentionBatch) -> Attend:
        """See `attention.base.Attention`."""
        singles = [i for i, n in enumerate(batch.query_lengths) if n == 1]
        runs = [Run(batch, i) for i, n in enumerate(batch.query_lengths) if n > 1]
        decode = Decode(batch, singles) if singles else None

        def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache) -> Tensor:
            result = query.new_empty(query.shape)
            if decode is not None:
                result[decode.rows] = decode(query[decode.rows], cache)
            for run in runs:
                result[run.rows] = run(query[run.rows], key[run.rows], value[run.rows], cache)
            return result

        return attend


class Decode:
    """One query row for each of the sequences `which`, their contexts padded to the longest."""

    def __init__(self, batch: AttentionBatch, which: list[int]) -> None:
        import torch

        device = batch.block_tables.device
        longest = max(batch.context_lengths[i] for i in which)
        blocks = -(-longest // BLOCK_SIZE)
        lengths = torch.tensor([batch.context_lengths[i] for i in which], device=device)
        unseen = torch.arange(blocks * BLOCK_SIZE, device=device) >= lengths[:, None]
        self.rows = [batch.query_starts[i] for i in which]
        self._tables = batch.block_tables[which, :blocks]
        self._mask = ~unseen[:, None, None, :]
        self._unseen = unseen[:, None, :, None]

    def __call__(self, query: Tensor, cache: LayerCache) -> Tensor:
        """Query `[n, heads, head_dim]` to the same shape."""
        from torch.nn.functional import scaled_dot_product_attention

        keys, values = _gather(cache.keys, self._tables), _gather(cache.values, self._tables)
        for gathered in (keys, values):  # a mask does not silence what lies beyond a context when that is inf or NaN
            gathered.masked_fill_(self._unseen, 0.0)
        attended = scaled_dot_product_attention(query.unsqueeze(2), keys, values, attn_mask=self._mask, enable_gqa=True)
        return attended.squeeze(2)


class Run:
    """Several new positions of sequence `i`; the cache is read only where there is context before them."""

    def __init__(self, batch: AttentionBatch, i: int) -> None:
        import torch

        length, self._context = batch.query_lengths[i], batch.context_lengths[i]
        self.rows = batch.rows(i)
        self._table = batch.block_tables[i : i + 1, : -(-self._context // BLOCK_SIZE)]
        self._mask = None
        if self._context > length:
            ones = torch.ones(length, self._context, dtype=torch.bool, device=self._table.device)
            self._mask = ones.tril(self._context - length)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, cache: LayerCache) -> Tensor:
        """Query `[n, heads, head_dim]`, key and value `[n, kv_heads, head_dim]` to the shape of the query."""
        from torch.nn.functional import scaled_dot_product_attention

        keys, values = key.transpose(0, 1).unsqueeze(0), value.transpose(0, 1).unsqueeze(0)
        if self._mask is not None:
            keys = _gather(cache.keys, self._table)[:, :, : self._context]
            values = _gather(cache.values, self._table)[:, :, : self._context]
        attended = scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0), keys, values,
            attn_mask=self._mask, is_causal=self._mask is None, enable_gqa=True,
        )  # fmt: skip
        return attended.squeeze(0).transpose(0, 1)


def _gather(cache: Tensor, tables: Tensor) -> Tensor:
    """Blocks `[n, blocks]` of the cache as contiguous sequences `[n, kv_heads, blocks * BLOCK_SIZE, head_dim]`."""
    n, blocks = tables.shape
    _, heads, size, dim = cache.shape
    return cache[tables].transpose(1, 2).reshape(n, heads, blocks * size, dim)  # always a copy
