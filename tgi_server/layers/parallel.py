"""Ranks that share one model: who holds which slice, and the few collectives a decoder needs."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(seconds=60)


def span(size: int, rank: int, world: int) -> tuple[int, int]:
    """Start and stop of rank's part of `size` things, in chunks of ceil(size / world); the last may be shorter."""
    chunk = -(-size // world)
    return min(rank * chunk, size), min((rank + 1) * chunk, size)


def _bracketed(address: str) -> str:
    """As it stands in a URL."""
    return f"[{address}]" if ":" in address else address


class Group:
    """The ranks of one model; with `world == 1` every collective is the identity."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world

    @classmethod
    def join(cls, rank: int, world: int, address: str, port: int, device: torch.device) -> Group:
        """Meet the other ranks at tcp://address:port (NCCL on GPUs, gloo on CPUs)."""
        if world > 1:
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                init_method=f"tcp://{_bracketed(address)}:{port}",
                rank=rank,
                world_size=world,
                timeout=TIMEOUT,
            )
        return cls(rank, world)

    def span(self, size: int) -> tuple[int, int]:
        """This rank's part of `size` things."""
        return span(size, self.rank, self.world)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum of every rank's `x`, in place."""
        if self.world > 1:
            dist.all_reduce(x)
        return x

    def minimum(self, value: int, device: torch.device) -> int:
        """Smallest of every rank's `value`."""
        if self.world == 1:
            return value
        x = torch.tensor(value, device=device)
        dist.all_reduce(x, op=dist.ReduceOp.MIN)
        return int(x.item())

    def gather_columns(self, x: Tensor, size: int) -> Tensor | None:
        """Join the ranks' column parts `[rows, part]` into `[rows, size]` on rank 0; None on the others."""
        if self.world == 1:
            return x
        chunk = -(-size // self.world)
        padded = torch.nn.functional.pad(x, (0, chunk - x.shape[1])).contiguous()
        parts = [torch.empty_like(padded) for _ in range(self.world)] if self.rank == 0 else None
        dist.gather(padded, parts, dst=0)
        return torch.cat(parts, dim=1)[:, :size] if parts is not None else None

    def broadcast(self, x: Tensor) -> Tensor:
        """Rank 0's `x` on every rank, in place."""
        if self.world > 1:
            dist.broadcast(x, src=0)
        return x
