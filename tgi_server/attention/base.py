"""The interface between a decoder and its attention kernels."""

from __future__ import annotations

from collections.abc import Callable
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
        context_lengths: int, B numbers, on the host. In a step that is recorded to be run again (shard/graphs.py) they
            are upper bounds.
        starts, contexts: the same as `query_starts` and `context_lengths`, int64 `[B + 1]` and `[B]` on the device;
            kernels read these.
        block_tables: int64 `[B, longest]`, padded with block 0.
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
    """Keys and values of one layer, `[blocks, kv_heads, BLOCK_SIZE, head_dim]` each."""

    keys: Tensor
    values: Tensor


Attend = Callable[[Tensor, Tensor, Tensor, LayerCache], Tensor]
"""One layer's attention in a step.

`query [tokens, heads, head_dim]` sees positions 0 up to its own of its sequence; `key` and `value`
`[tokens, kv_heads, head_dim]` are the new ones, which are in the cache already. Returns the shape of `query`.
"""


class Attention(Protocol):
    """Scaled dot-product attention of new positions over their own cached context.

    Attributes:
        recordable: True when a step of one new position a sequence may be recorded and run again with other data at the
            same addresses (shard/graphs.py).
    """

    recordable: bool

    def unsupported(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
        """Reasons why it cannot run heads of this width in `dtype` on `device`; empty when it can."""
        ...

    def begin(self, batch: AttentionBatch) -> Attend:
        """Prepare a step once for all layers."""
        ...
