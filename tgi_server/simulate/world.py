"""Clients, engines and shards by events instead of by the clock.

The engine's cycle and its scheduler are the real ones. Steps take what a table says, and what comes of them is known
beforehand: one token for each sequence whose prompt is computed. Runs of equal steps are taken in one go.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tgi_server.bench.load import PAUSE
from tgi_server.bench.turns import Turns
from tgi_server.bench.workload import Request
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ValidationError
from tgi_server.simulate.costs import Overheads, StepCosts
from tgi_server.simulate.replica import Replica
from tgi_server.simulate.routing import Fleet, Router
from tgi_server.simulate.shards import Open, Simulated
from tgi_server.types import ShardInfo


@dataclass(frozen=True)
class Load:
    """When requests are sent; see `bench.workload.Workload`."""

    clients: int
    closed: bool = True
    requests: int | None = None
    duration: float | None = None
    time_limit: float = 600.0


def simulate(
    options: BatchingOptions, info: ShardInfo, costs: StepCosts, overheads: Overheads, asked: Iterator[Request],
    load: Load, ids: Callable[[Request], list[int]], warmup: tuple[Iterator[Request], Load] | None = None,
    fleet: Fleet | None = None,
) -> list[Simulated]:  # fmt: skip
    """What happens to each request, by the time it was due.

    Args:
        info: the caches and limits of the shards, which guess no tokens.
        asked: in the order in which requests are due; the load ends with them.
        ids: the tokens of a request's prompt.
        warmup: what is asked, and answered, before.
        fleet: the servers; by default one.
    """
    with _uncollected():
        world = _World(options, info, costs, overheads, ids, fleet or Fleet())
        if warmup is not None:
            world.run(*warmup)
        return world.run(asked, load)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hundreds of schedulers have millions of blocks, none of them garbage: to look for some takes half the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _World:
    def __init__(
        self, options: BatchingOptions, info: ShardInfo, costs: StepCosts, overheads: Overheads,
        ids: Callable[[Request], list[int]], fleet: Fleet,
    ) -> None:  # fmt: skip
        self._before = overheads.before
        self._prompt = ids
        self._order = itertools.count()
        self._router = Router(fleet)
        self._replicas = [Replica(number, options, info, costs, overheads) for number in range(fleet.replicas)]

    def run(self, asked: Iterator[Request], load: Load) -> list[Simulated]:
        """All of a load, on a clock that begins at 0. Nothing may be left of one before."""
        self._asked = asked
        self._turns = Turns(asked)
        self._load = load
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._due: list[tuple[float, int]] = []  # of replicas; what one no longer says does not count
        self._records: list[Simulated] = []
        self._left: float = load.requests or math.inf
        self._until = min(load.duration or math.inf, load.time_limit)
        self._places = load.clients
        self._queue: deque[Request] = deque()  # those of an open loop that are due and found no place
        for replica in self._replicas:
            replica.begin(self._done)
        if self._load.closed:
            for _ in range(self._load.clients):
                self._at(0.0, self._client)
        else:
            self._next()
        self._go()
        for record in self._records:
            if not record.end and record.error is None:
                record.error, record.end = f"not done after {self._load.time_limit:g} s", self._load.time_limit
        return sorted(self._records, key=lambda record: record.start)

    def _go(self) -> None:
        """Until nobody asks any more and all is answered, or the time is over."""
        while True:
            event = self._events[0][0] if self._events else math.inf
            due, number = self._next_due()
            if min(event, due) > self._load.time_limit or event == due == math.inf:
                break
            if event < due:
                now, _, action, arguments = heapq.heappop(self._events)
                action(now, *arguments)
            else:
                self._replicas[number].advance()
                self._watch(self._replicas[number])
        for replica in self._replicas:
            replica.catch_up(self._load.time_limit)

    def _next_due(self) -> tuple[float, int]:
        """When something is due at a replica, and at which one."""
        while self._due and self._replicas[self._due[0][1]].due != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0] if self._due else (math.inf, 0)

    def _watch(self, replica: Replica) -> None:
        if replica.due < math.inf:
            heapq.heappush(self._due, (replica.due, replica.number))

    def _at(self, moment: float, action: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (moment, next(self._order), action, arguments))

    def _client(self, now: float) -> None:
        """One that sends when its last answer is complete."""
        if self._left > 0 and now < self._until:
            self._left -= 1
            self._send(now, self._turns.take(), now)

    def _next(self) -> None:
        request = next(self._asked)
        self._at(request.at or 0.0, self._arrive, request)

    def _arrive(self, now: float, request: Request) -> None:
        """A request of an open loop is due."""
        if self._left <= 0 or now >= self._until:
            return
        self._left -= 1
        if self._places:
            self._places -= 1
            self._send(now, request, now)
        else:
            self._queue.append(request)
        self._next()

    def _send(self, now: float, asked: Request, due: float) -> None:
        ids = self._prompt(asked)
        number = self._router.send(ids)
        record = Simulated(due, now, prompt_tokens=len(ids), replica=number)
        self._records.append(record)
        self._replicas[number].under_way += 1
        self._at(now + self._before, self._enter, Open(record, asked, len(ids), 0, len(ids)), ids)

    def _enter(self, now: float, each: Open, ids: list[int]) -> None:
        replica = self._replicas[each.record.replica]
        try:
            if replica.enter(now, each, ids):
                self._at(now, self._plan, replica)  # behind what comes at the same moment, as in the loop of the engine
        except ValidationError as error:
            self._end(now, each, str(error))
        self._watch(replica)

    def _plan(self, now: float, replica: Replica) -> None:
        replica.plan(now)
        self._watch(replica)

    def _done(self, now: float, each: Open) -> None:
        self._at(now, self._end, each, None)

    def _end(self, now: float, each: Open, error: str | None) -> None:
        each.record.end, each.record.error = now, error
        self._replicas[each.record.replica].under_way -= 1
        self._router.answered(each.record.replica)
        if self._load.closed:
            self._turns.done(each.asked)
            self._at(now + (PAUSE if error else 0.0), self._client)
        elif self._queue:
            request = self._queue.popleft()
            self._send(now, request, request.at or 0.0)
        else:
            self._places += 1
