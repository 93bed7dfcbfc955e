"""Attention on a CPU that reads the paged cache in place, by the compiled kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgi_server.types import BLOCK_SIZE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tgi_server.attention.base import Attend, AttentionBatch, LayerCache


ROWS = 16
"""New positions of a sequence that share one reading of its keys: their sums have to fit a core's first cache."""


@dataclass
class NativeAttention:
    """Rows of one sequence go through the kernel in tiles, so that each key is read once for many of them."""

    recordable = True

    def unsupported(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
        """What the compiled kernels need."""
        from tgi_server.native import kernels

        reasons = kernels.unsupported(device, dtype)
        if BLOCK_SIZE != kernels.BLOCK:
            reasons.append(f"cache blocks of {BLOCK_SIZE} positions; the kernel is made for {kernels.BLOCK}")
        if head_dim not in kernels.HEAD_DIMS:
            reasons.append(f"head_dim={head_dim} is not one of {', '.join(map(str, kernels.HEAD_DIMS))}")
        return reasons

    def begin(self, batch: AttentionBatch) -> Attend:
        """See `attention.base.Attention`."""
        from tgi_server.native import kernels

        most = min(ROWS, max(batch.query_lengths))
        tiles = _tiles(batch.query_lengths, most)

        def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache) -> Tensor:
            return kernels.attend(
                query, cache.keys, cache.values, batch.starts, batch.contexts, batch.block_tables, tiles, most
            )

        return attend


def _tiles(lengths: list[int], most: int) -> Tensor:
    """Sequence, first new position and number of positions (at most `most`) of each piece of a step: int64 `[n, 3]`."""
    import numpy as np
    import torch

    length = np.array(lengths, np.int64)
    pieces = -(-length // most)
    sequence = np.repeat(np.arange(len(length)), pieces)
    number = np.arange(len(sequence)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    offset = number * most
    return torch.from_numpy(np.stack([sequence, offset, np.minimum(most, length[sequence] - offset)], axis=1))
