"""The small operations between a decoder's matrix products: in plain torch, which runs everywhere, or compiled."""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from tgi_server.attention.base import LayerCache
from tgi_server.native import kernels
from tgi_server.rope.rotary import RotaryTable, rotate
from tgi_server.triton import support

log = logging.getLogger(__name__)


class Ops(Protocol):
    """What a decoder layer needs beside linear layers and attention.

    Attributes:
        recordable: True when they may be recorded and run again with other data at the same addresses
            (shard/graphs.py).
    """

    recordable: bool

    def add_norm(self, residual: Tensor, x: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """Add `x [tokens, hidden]` to the float32 `residual` in place; return its RMS norm in the serving dtype.

        The residual stream is float32 whatever the serving dtype: sums over many layers lose too much in bfloat16.
        RMS norm: arXiv:1910.07467.
        """
        ...

    def rotate_store(
        self, qkv: Tensor, rotary: RotaryTable, positions: Tensor, slots: Tensor, cache: LayerCache, heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split `qkv [tokens, (heads + 2 * kv_heads) * head_dim]`, rotate query and key, put key and value in `slots`.

        Returns query `[tokens, heads, head_dim]`, key and value `[tokens, kv_heads, head_dim]`.
        """
        ...

    def gate(self, gate_up: Tensor) -> Tensor:
        """`[tokens, 2 * inner]`, gate and up side by side, to `silu(gate) * up [tokens, inner]` (arXiv:2002.05202)."""
        ...


class TorchOps:
    """Plain torch, for `dtype`; what the other versions have to agree with."""

    recordable = False

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def add_norm(self, residual: Tensor, x: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """See `Ops`."""
        if x is not None:
            residual += x
        return rms_norm(residual, weight.shape, weight, eps).to(self._dtype)

    def rotate_store(
        self, qkv: Tensor, rotary: RotaryTable, positions: Tensor, slots: Tensor, cache: LayerCache, heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Ops`."""
        _, kv_heads, block_size, head_dim = cache.keys.shape
        query, key, value = torch.split(qkv.view(qkv.shape[0], -1, head_dim), [heads, kv_heads, kv_heads], dim=1)
        cos, sin = rotary.cos[positions].unsqueeze(1), rotary.sin[positions].unsqueeze(1)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        block, offset = slots // block_size, slots % block_size
        cache.keys[block, :, offset] = key
        cache.values[block, :, offset] = value
        return query, key, value

    def gate(self, gate_up: Tensor) -> Tensor:
        """See `Ops`."""
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate) * up


class NativeOps:
    """The compiled CPU kernels, for `dtype`: each operation is one pass over its data."""

    recordable = True

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def add_norm(self, residual: Tensor, x: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """See `Ops`."""
        return kernels.add_norm(residual, x, weight, eps, self._dtype)

    def rotate_store(
        self, qkv: Tensor, rotary: RotaryTable, positions: Tensor, slots: Tensor, cache: LayerCache, heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Ops`."""
        return kernels.rotate_store(qkv, rotary.cos, rotary.sin, positions, slots, cache.keys, cache.values, heads)

    def gate(self, gate_up: Tensor) -> Tensor:
        """See `Ops`."""
        return kernels.gate(gate_up)


def best_ops(device: torch.device, dtype: torch.dtype) -> Ops:
    """Compiled where that works, else plain torch; the log says why."""
    on_gpu = device.type == "cuda"
    reasons = support.unsupported(device, dtype) if on_gpu else kernels.unsupported(device, dtype)
    if reasons:
        log.warning("plain torch operations, which are slow: %s", "; ".join(reasons))
        return TorchOps(dtype)
    if on_gpu:
        from tgi_server.layers.triton_ops import TritonOps  # imports triton, which is not everywhere

        return TritonOps(dtype)
    return NativeOps(dtype)
