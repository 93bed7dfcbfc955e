"""The router's side of the connection to the shards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import grpc
import grpc.aio

from tgi_server.errors import GenerationError, UnhealthyError
from tgi_server.rpc.codec import INFO, KEY, OUTCOME, PLAN, SERVICE, UNLIMITED
from tgi_server.types import GroupInfo, Outcome, Placement, Plan, ShardInfo

CHANNEL_OPTIONS = [
    *UNLIMITED,
    ("grpc.enable_http_proxy", 0),  # a proxy in the environment is not meant for shards
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
REMOTE_OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.keepalive_time_ms", 20_000),  # firewalls forget connections on which nothing is said
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
"""Those of channels to other nodes. That one is lost its launcher notices sooner."""


class Shards(Protocol):
    """All ranks of one model, as the engine uses them."""

    async def connect(self) -> ShardInfo:
        """Reach every rank. Raises UnhealthyError when one does not answer."""
        ...

    async def send(self, plan: Plan) -> None:
        """Put a step on its way to every rank; several may be in flight. Raises GenerationError."""
        ...

    async def receive(self) -> Outcome:
        """The outcome of the oldest plan in flight. Raises GenerationError once a shard has died."""
        ...

    async def health(self) -> None:
        """Raises UnhealthyError when a rank does not answer."""
        ...

    async def close(self) -> None:
        """Let go of the shards."""
        ...


class _Rank:
    """The connection to one shard process; `key` is shown to those of other nodes."""

    def __init__(self, place: Placement, key: str | None) -> None:
        self.name = place.name
        self.address = place.address.removeprefix("unix:")
        options = REMOTE_OPTIONS if place.node else CHANNEL_OPTIONS
        channel: Any = grpc.aio.insecure_channel(place.address, options=options)
        self.channel = channel
        self._shown = ((KEY, key),) if key is not None and place.node else ()
        self._info = self.channel.unary_unary(f"/{SERVICE}/Info")
        self._health = self.channel.unary_unary(f"/{SERVICE}/Health")
        self._steps: Any = None

    async def info(self, seconds: float) -> ShardInfo:
        try:
            answer = await self._info(b"", timeout=seconds, wait_for_ready=True, metadata=self._shown)
            return INFO.decode(answer)
        except grpc.aio.AioRpcError as error:
            message = f"{self.name} does not answer on {self.address} within {seconds:g} s: {error.details()}"
            raise UnhealthyError(message) from error

    async def health(self, seconds: float) -> None:
        try:
            await self._health(b"", timeout=seconds, metadata=self._shown)
        except grpc.aio.AioRpcError as error:
            raise UnhealthyError(f"{self.name} does not answer: {error.details()}") from error

    def open(self) -> None:
        self._steps = self.channel.stream_stream(f"/{SERVICE}/Steps")(metadata=self._shown)

    async def write(self, data: bytes) -> None:
        try:
            await self._steps.write(data)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self.lost(error) from error

    async def read(self) -> bytes:
        """The next message. Raises GenerationError when the stream is over: a shard never ends it while it lives."""
        try:
            data = await self._steps.read()
        except grpc.aio.AioRpcError as error:
            raise self.lost(error) from error
        if not isinstance(data, bytes):  # the end of the stream
            raise GenerationError(f"{self.name} ended its stream")
        return data

    def lost(self, error: Exception) -> GenerationError:
        details = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
        return GenerationError(f"{self.name} died: {details}")

    async def close(self) -> None:
        if self._steps is not None:
            self._steps.cancel()
        await self.channel.close()


class GrpcShards:
    """Shard processes; rank 0 tells the outcomes.

    Args:
        places: where they are, in the order of their ranks.
        key: what those of other nodes want to see.
        connect_timeout: seconds that all of them together have to answer in.
        health_timeout: seconds a health check may take.
    """

    def __init__(
        self, places: Sequence[Placement], key: str | None = None, connect_timeout: float = 60.0,
        health_timeout: float = 10.0,
    ) -> None:  # fmt: skip
        self._places = places
        self._key = key
        self._connect_timeout = connect_timeout
        self._health_timeout = health_timeout
        self._ranks: list[_Rank] = []
        self._listeners: list[asyncio.Task[None]] = []
        self._outcomes: asyncio.Queue[Outcome | GenerationError] = asyncio.Queue()
        self._lost: GenerationError | None = None

    async def connect(self) -> ShardInfo:
        """Reach every rank and open its stream. Raises UnhealthyError when one does not answer in time."""
        self._ranks = [_Rank(place, self._key) for place in self._places]
        infos = await asyncio.gather(*(rank.info(self._connect_timeout) for rank in self._ranks))
        for rank in self._ranks:
            rank.open()
            self._listeners.append(asyncio.create_task(self._listen(rank)))
        return replace(infos[0], groups=[_smallest(ranks) for ranks in zip(*(i.groups for i in infos), strict=True)])

    async def send(self, plan: Plan) -> None:
        """Write `plan` to every rank. Raises GenerationError, naming the rank, when one is gone."""
        data = PLAN.encode(plan)
        for rank in self._ranks:
            await rank.write(data)

    async def receive(self) -> Outcome:
        """The next outcome. Raises GenerationError, naming the rank, as soon as any of them is gone."""
        if self._lost is None:
            outcome = await self._outcomes.get()
            if isinstance(outcome, Outcome):
                return outcome
            self._lost = outcome
        raise self._lost

    async def health(self) -> None:
        """Raises UnhealthyError, naming the rank, when one does not answer."""
        await asyncio.gather(*(rank.health(self._health_timeout) for rank in self._ranks))

    async def close(self) -> None:
        """End the streams and connections; the shards stay."""
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)
        await asyncio.gather(*(rank.close() for rank in self._ranks))

    async def _listen(self, rank: _Rank) -> None:
        """Queue what `rank` says, at last why it says no more. All but rank 0 are listened to for that only."""
        try:
            while True:
                self._outcomes.put_nowait(OUTCOME.decode(await rank.read()))
        except GenerationError as error:
            self._outcomes.put_nowait(error)


def _smallest(ranks: Sequence[GroupInfo]) -> GroupInfo:
    """What every rank has of a group."""
    return min(ranks, key=lambda group: group.num_blocks)
