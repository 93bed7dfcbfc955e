"""The operations of a decoder on a GPU, by the Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from tgi_server.attention.base import LayerCache
from tgi_server.rope.rotary import RotaryTable
from tgi_server.triton import gating, norm
from tgi_server.triton.rotary import rotate_store


class TritonOps:
    """For `dtype`: each operation is one kernel and one pass over its data."""

    recordable = True

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def add_norm(self, residual: Tensor, x: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """See `layers.ops.Ops`."""
        return norm.add_norm(residual, x, weight, eps, self._dtype)

    def rotate_store(
        self, qkv: Tensor, rotary: RotaryTable, positions: Tensor, slots: Tensor, cache: LayerCache, heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `layers.ops.Ops`."""
        return rotate_store(qkv, rotary.cos, rotary.sin, positions, slots, cache.keys, cache.values, heads)

    def gate(self, gate_up: Tensor) -> Tensor:
        """See `layers.ops.Ops`."""
        return gating.gate(gate_up)
