"""The interface between a decoder and its attention kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One rank's heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Where the new positions of a step stand; the same for every layer.

    Sequence i has `query_lengths[i]` new positions, the last of its `context_lengths[i]`. They are rows
    `query_starts[i] : query_starts[i + 1]` of the flattened step and live in the cache blocks `block_tables[i]`.

    Attributes:
        query_starts: int, B + 1 numbers, on the host.
        query_lengths: int, B numbers, on the host.
        context_lengths: int, B numbers, on the host.
        block_tables: int64 `[B, longest]`, padded with block 0.
        slots: int64 `[tokens]`, block * BLOCK_SIZE + offset where each new key and value goes.
    """

    query_starts: list[int]
    query_lengths: list[int]
    context_lengths: list[int]
    block_tables: Tensor
    slots: Tensor


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys and values of one layer, `[blocks, kv_heads, BLOCK_SIZE, head_dim]` each."""

    keys: Tensor
    values: Tensor

    def write(self, slots: Tensor, keys: Tensor, values: Tensor, block_size: int) -> None:
        """Store `keys`, `values` `[tokens, kv_heads, head_dim]` at `slots`."""
        block, offset = slots // block_size, slots % block_size
        self.keys[block, :, offset] = keys
        self.values[block, :, offset] = values


class Attention(Protocol):
    """Scaled dot-product attention of new positions over their own cached context."""

    def unsupported(self, device: torch.device) -> list[str]:
        """Reasons why it cannot run on `device`; empty when it can."""
        ...

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, batch: AttentionBatch) -> Tensor:
        """Write `key`, `value` `[tokens, kv_heads, head_dim]` to the cache and attend.

        `query` is `[tokens, heads, head_dim]`; the result has its shape. Position p of a sequence sees 0..p.
        """
        ...
