"""Attention that reads the paged cache in place."""

from __future__ import annotations

from torch import Tensor

from tgi_server.kernels.attention import Attend, AttentionBatch, Features, LayerCache
from tgi_server.kernels.triton.decode import choose_parts, decode
from tgi_server.kernels.triton.prefill import prefill
from tgi_server.kernels.triton.support import processors


def attention(batch: AttentionBatch) -> Attend:
    """The operation `attention`: steps of single new positions (decode) in parts, all others through one kernel.

    Lengths are read on the device, so that a step recorded as a CUDA graph can be run again with others.
    """
    available, longest = processors(batch.starts.device), max(batch.context_lengths)
    single = max(batch.query_lengths) == 1

    def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, features: Features) -> Tensor:
        if not single:
            return prefill(query, cache, batch.block_tables, batch.starts, batch.contexts, features)
        visible = longest if features.window is None else min(longest, features.window)
        parts = choose_parts(len(query), cache.keys.shape[1], visible, available)
        return decode(query, cache, batch.block_tables, batch.contexts, features, parts)

    return attend
