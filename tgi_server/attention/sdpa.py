"""Attention in plain torch: gather the blocks, call scaled_dot_product_attention. Runs everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgi_server.types import BLOCK_SIZE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tgi_server.attention.base import AttentionBatch, LayerCache


@dataclass
class SdpaAttention:
    """All single new positions (decode) go in one padded call; every longer run (prefill) in one of its own."""

    def unsupported(self, device: torch.device) -> list[str]:
        """Runs everywhere."""
        return []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, batch: AttentionBatch) -> Tensor:
        """See `attention.base.Attention`."""
        import torch

        cache.write(batch.slots, key, value, BLOCK_SIZE)
        singles = [i for i, n in enumerate(batch.query_lengths) if n == 1]
        result = torch.empty_like(query)
        if singles:
            rows = [batch.query_starts[i] for i in singles]
            result[rows] = self._decode(query[rows], cache, batch, singles)
        for i, length in enumerate(batch.query_lengths):
            if length > 1:
                run = slice(batch.query_starts[i], batch.query_starts[i + 1])
                result[run] = self._prefill(query[run], key[run], value[run], cache, batch, i)
        return result

    def _decode(self, query: Tensor, cache: LayerCache, batch: AttentionBatch, which: list[int]) -> Tensor:
        """One query row a sequence, contexts padded to the longest: `[n, heads, head_dim]`."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        lengths = torch.tensor([batch.context_lengths[i] for i in which], device=query.device)
        blocks = -(-max(batch.context_lengths[i] for i in which) // BLOCK_SIZE)
        tables = batch.block_tables[which, :blocks]
        keys, values = _gather(cache.keys, tables), _gather(cache.values, tables)
        seen = torch.arange(keys.shape[2], device=query.device) < lengths[:, None]
        for gathered in (keys, values):  # a mask does not silence what lies beyond a context when that is inf or NaN
            gathered.masked_fill_(~seen[:, None, :, None], 0.0)
        attended = scaled_dot_product_attention(
            query.unsqueeze(2), keys, values, attn_mask=seen[:, None, None, :], enable_gqa=True
        )
        return attended.squeeze(2)

    def _prefill(
        self, query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, batch: AttentionBatch, i: int
    ) -> Tensor:
        """A run of one sequence, `[n, heads, head_dim]`; the cache is read only where there is earlier context."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        length, context = batch.query_lengths[i], batch.context_lengths[i]
        mask = None
        keys, values = key.transpose(0, 1).unsqueeze(0), value.transpose(0, 1).unsqueeze(0)
        if context > length:
            table = batch.block_tables[i : i + 1, : -(-context // BLOCK_SIZE)]
            keys, values = _gather(cache.keys, table)[:, :, :context], _gather(cache.values, table)[:, :, :context]
            mask = torch.ones(length, context, dtype=torch.bool, device=query.device).tril(context - length)
        attended = scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0), keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return attended.squeeze(0).transpose(0, 1)


def _gather(cache: Tensor, tables: Tensor) -> Tensor:
    """Blocks `[n, blocks]` of the cache as contiguous sequences `[n, kv_heads, blocks * BLOCK_SIZE, head_dim]`."""
    n, blocks = tables.shape
    _, heads, size, dim = cache.shape
    return cache[tables].transpose(1, 2).reshape(n, heads, blocks * size, dim)  # always a copy
