"""Attention on a GPU that reads the paged cache in place, by the Triton kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tgi_server.attention.base import Attend, AttentionBatch, LayerCache

WIDEST = 256
"""Widest head whose tiles fit in shared memory."""


@dataclass
class TritonAttention:
    """Steps of single new positions (decode) go in parts over their contexts; all others through one causal kernel.

    Lengths are read on the device, so that a step recorded as a CUDA graph can be run again with others.
    """

    recordable = True

    def unsupported(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
        """What the Triton kernels need."""
        from tgi_server.triton import support

        reasons = support.unsupported(device, dtype)
        if head_dim > WIDEST:
            reasons.append(f"head_dim={head_dim} is more than {WIDEST}")
        return reasons

    def begin(self, batch: AttentionBatch) -> Attend:
        """See `attention.base.Attention`."""
        from tgi_server.triton.decode import choose_parts, decode
        from tgi_server.triton.prefill import prefill
        from tgi_server.triton.support import processors

        available, longest = processors(batch.starts.device), max(batch.context_lengths)
        single = max(batch.query_lengths) == 1

        def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache) -> Tensor:
            if not single:
                return prefill(query, cache.keys, cache.values, batch.block_tables, batch.starts, batch.contexts)
            parts = choose_parts(len(query), cache.keys.shape[1], longest, available)
            return decode(query, cache.keys, cache.values, batch.block_tables, batch.contexts, parts)

        return attend
