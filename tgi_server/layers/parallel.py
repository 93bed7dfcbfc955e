"""Ranks that share one model: who holds which slice, and the few collectives a decoder needs."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tgi_server.errors import ConfigError
from tgi_server.layers import spread
from tgi_server.layers.spread import Span

TIMEOUT = timedelta(seconds=60)
MEETING = timedelta(minutes=5)
"""Time until all ranks have started, which they do when all nodes have the model."""
GATHERING = timedelta(hours=1)
"""Time until all ranks have read their weights: the disks of nodes differ. The launchers watch."""
AGREEMENT = timedelta(seconds=3)
"""Time that ranks have to come to the place where another one has failed."""


def _meeting(rank: int, world: int, address: str, port: int) -> Any:
    """Where the ranks tell each other how to reach them, which rank 0 keeps: nobody has to show who they are there.

    torch would have it listen on all addresses of the machine; here it is the one that the ranks meet at.

    Raises:
        ConfigError: they have not all come in time.
    """
    store = dist.TCPStore  # type: ignore[attr-defined]  # documented, but not to type checkers
    family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    try:
        if rank:
            return store(str(place[0]), port, world, is_master=False, timeout=MEETING)
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(world)
            number = listener.detach()
        return store(str(place[0]), port, world, is_master=True, timeout=MEETING, master_listen_fd=number)
    except dist.DistError as error:
        raise ConfigError(
            f"master_port={port}: not all shards have met at {address} within {MEETING.seconds} s; other nodes have to "
            f"get there, too ({str(error).splitlines()[0]})"
        ) from error


class Group:
    """The ranks of one model; with `world == 1` every collective is the identity.

    Args:
        store: where they met, and tell each other of failures.

    Attributes:
        collectives: how many this rank has taken part in.
    """

    def __init__(self, rank: int = 0, world: int = 1, store: Any = None) -> None:
        self.rank = rank
        self.world = world
        self.collectives = 0
        self._store = store
        self._failures = 0
        self._said: str | None = None

    @classmethod
    def join(cls, rank: int, world: int, address: str, port: int, device: torch.device) -> Group:
        """Meet the other ranks at `address` and `port` (NCCL on GPUs, gloo on CPUs)."""
        if world == 1:
            return cls()
        store, backend = _meeting(rank, world, address, port), "nccl" if device.type == "cuda" else "gloo"
        store.set_timeout(TIMEOUT)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
        return cls(rank, world, store)

    def gather(self, place: str) -> None:
        """Wait until every rank has come to a place, for as long as loading a model may take."""
        if self.world > 1:
            keys = [f"{place}, rank {rank}" for rank in range(self.world)]
            self._store.set(keys[self.rank], "")
            self._store.wait(keys, GATHERING)

    def agree(self, place: str) -> bool:
        """Whether every rank has failed at the same place, which each says by calling this; then none waits for others.

        Ranks are at the same place that have taken part in as many collectives and name the same `place`.
        It needs no collective, of which nobody knows who takes part: the ranks write to the store where they met.
        """
        if self.world == 1:
            return True
        self._failures += 1
        where = f"failure {self._failures}, {place} after {self.collectives}"
        keys = [f"{where}, rank {rank}" for rank in range(self.world)]
        self._store.set(keys[self.rank], "")
        try:
            self._store.wait(keys, AGREEMENT)
        except RuntimeError:  # a rank is elsewhere, or gone
            return False
        if self._said is not None:  # all have come from there to here: nobody waits for it any more
            self._store.delete_key(self._said)
        self._said = keys[self.rank]
        return True

    def span(self, size: int) -> Span:
        """This rank's part of `size` things; see `spread.span`."""
        return spread.span(size, self.rank, self.world)

    def heads(self, queries: int, keys: int) -> tuple[Span, Span]:
        """This rank's query heads and key/value heads; see `spread.heads`."""
        return spread.heads(queries, keys, self.rank, self.world)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum of every rank's `x`, in place."""
        if self.world > 1:
            self.collectives += 1
            dist.all_reduce(x)
        return x

    def maxima(self, x: Tensor) -> Tensor:
        """Element by element the largest of every rank's `x`, in place."""
        if self.world > 1:
            self.collectives += 1
            dist.all_reduce(x, op=dist.ReduceOp.MAX)
        return x

    def minimum(self, value: int, device: torch.device) -> int:
        """Smallest of every rank's `value`."""
        if self.world == 1:
            return value
        self.collectives += 1
        x = torch.tensor(value, device=device)
        dist.all_reduce(x, op=dist.ReduceOp.MIN)
        return int(x.item())

    def gather_columns(self, x: Tensor, size: int) -> Tensor | None:
        """Join the ranks' column parts (`span(size)`) into `[rows, size]` on rank 0; None on the others."""
        if self.world == 1:
            return x
        spans = [spread.span(size, rank, self.world) for rank in range(self.world)]
        most = -(-size // self.world)  # parts that are gathered have one shape
        padded = torch.nn.functional.pad(x, (0, most - x.shape[1])).contiguous()
        parts = [torch.empty_like(padded) for _ in range(self.world)] if self.rank == 0 else None
        self.collectives += 1
        dist.gather(padded, parts, dst=0)
        if parts is None:
            return None
        return torch.cat([part[:, : stop - start] for part, (start, stop) in zip(parts, spans, strict=True)], dim=1)

    def broadcast(self, x: Tensor) -> Tensor:
        """Rank 0's `x` on every rank, in place."""
        if self.world > 1:
            self.collectives += 1
            dist.broadcast(x, src=0)
        return x
