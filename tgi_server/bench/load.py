"""A measurement: requests in a closed or an open loop, until their number or the time is reached."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import orjson

from tgi_server.bench.completion import Completions, Record
from tgi_server.bench.http import BenchError, Pool, Target
from tgi_server.bench.turns import Turns
from tgi_server.bench.workload import Request, Workload

PAUSE = 0.1
"""Seconds a client waits after a failure: a server that refuses all is not to be flooded."""
_TICK = 0.2
"""Seconds between two looks at the progress."""
_WARMUP = 32
"""Most warm-up requests where their number is not given."""
_LONGEST_LIST = 16 << 20
"""Bytes of a list of models."""

Watch = Callable[[float, list[Record]], None]
"""Told now and then what part (0 to 1) is done and the records so far; may raise to end the measurement."""


@dataclass
class Run:
    """One measurement."""

    clients: int
    records: Sequence[Record]


async def find_model(target: Target) -> str | None:
    """The name of the model the server offers first; None when it has no such list. Raises BenchError."""
    pool, body = Pool(target), bytearray()

    def take(data: bytes) -> None:
        body.extend(data)
        if len(body) > _LONGEST_LIST:
            raise BenchError(f"target={target}: its list of models is longer than {_LONGEST_LIST >> 20} MiB")

    try:
        async with asyncio.timeout(30):
            status = await pool.send(target.request("GET", "/v1/models"), take)
        name = orjson.loads(body)["data"][0]["id"] if status == 200 else None
        return name if isinstance(name, str) else None
    except (OSError, TimeoutError) as error:
        raise BenchError(f"target={target}: no server answers there ({_reason(error)})") from None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    finally:
        pool.close()


async def measure(target: Target, model: str | None, work: Workload, clients: int, run: int, watch: Watch) -> Run:
    """Warm up, then measure.

    Args:
        clients: requests at a time, one of the workload's.
        run: number of the measurement; it decides which random prompts are sent.

    Raises:
        BenchError: every request failed.
    """

    def warming(part: float, records: list[Record]) -> None:
        watch(0.0, [])

    pool = Pool(target)
    try:
        completions = Completions(pool, model, work.sampling)
        first = warm_up_requests(work, clients)
        if first:
            warmup = replace(work, rate=None, speed=None, requests=first, duration=None)
            records = await _Load(completions, warmup, min(clients, first), f"warm-up {run}").go(warming)
            _check(target, records)
        records = await _Load(completions, work, clients, f"run {run}").go(watch)
        _check(target, records)
    finally:
        pool.close()
    return Run(clients, sorted(records, key=lambda record: record.start))


def warm_up_requests(work: Workload, clients: int) -> int:
    """How many are sent before a measurement."""
    return min(clients, _WARMUP) if work.warmup is None else work.warmup


def _check(target: Target, records: list[Record]) -> None:
    if all(record.error for record in records):
        reason = records[0].error if records else "none was sent"
        raise BenchError(f"target={target}: all {len(records)} requests failed; the first: {reason}")


class _Load:
    def __init__(self, completions: Completions, work: Workload, clients: int, run: str) -> None:
        self._completions = completions
        self._work = work
        self._clients = clients
        self._requests = work.asked(run)
        self._turns = Turns(self._requests)
        self._left: float = work.requests or math.inf
        self._until = min(work.duration or math.inf, work.time_limit)
        self._records: list[Record] = []
        self._began = 0.0

    async def go(self, watch: Watch) -> list[Record]:
        """All requests; `watch` is called until the last one is done."""
        self._began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch(watch))
                await (self._closed(tasks) if self._work.closed else self._open(tasks))
                watching.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return self._records

    async def _closed(self, tasks: asyncio.TaskGroup) -> None:
        await asyncio.gather(*(tasks.create_task(self._client()) for _ in range(self._clients)))

    async def _client(self) -> None:
        while self._left > 0 and (now := self._now()) < self._until:
            self._left -= 1
            request = self._turns.take()
            failed = (await self._ask(request, now)).error
            self._turns.done(request)
            if failed:
                await asyncio.sleep(PAUSE)

    async def _open(self, tasks: asyncio.TaskGroup) -> None:
        places = asyncio.Semaphore(self._clients)
        running: set[asyncio.Task[Record]] = set()
        for request in self._requests:
            moment = request.at or 0.0
            if self._left <= 0 or moment >= self._until or self._now() >= self._work.time_limit:
                break
            await asyncio.sleep(moment - self._now())
            await places.acquire()
            self._left -= 1
            task = tasks.create_task(self._ask(request, moment))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda _: places.release())
        await asyncio.gather(*running)

    async def _ask(self, request: Request, start: float) -> Record:
        limit = self._work.time_limit
        record = await self._completions.ask(request.text, request.new_tokens, self._began, start, limit)
        self._records.append(record)
        return record

    async def _watch(self, watch: Watch) -> None:
        while True:
            await asyncio.sleep(_TICK)
            done = len(self._records) / self._work.requests if self._work.requests else 0.0
            watch(min(1.0, max(done, self._now() / self._until)), self._records)

    def _now(self) -> float:
        return time.monotonic() - self._began


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
