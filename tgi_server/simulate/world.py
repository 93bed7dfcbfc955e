"""Clients, engine and shards by events instead of by the clock.

The cycle and its scheduler are the real ones; steps take what a table says, and their outcomes are known beforehand:
one token for each sequence whose prompt is computed. Runs of steps in which nothing else happens are taken in one go.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from tgi_server.batching import sequence as batching
from tgi_server.bench.completion import Record
from tgi_server.bench.load import PAUSE
from tgi_server.config.schema import BatchingOptions
from tgi_server.engine.cycle import Cycle
from tgi_server.errors import UsageError, ValidationError
from tgi_server.simulate.costs import Overheads, Shape, StepCosts
from tgi_server.types import GenerationRequest, Outcome, Plan, SamplingParams, ShardInfo, StoppingParams

_TOKEN = 1
"""The id of every generated token."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: the ids matter only as far as prompts begin alike."""

    prompt_ids: Sequence[int]
    new_tokens: int


@dataclass(frozen=True)
class Load:
    """When requests are sent, as `tgi_server.bench.load` does it.

    Attributes:
        clients: requests at a time.
        moments: when requests are due, rising; None is a closed loop, where a client sends when its last answer is
            complete.
        requests: how many at most.
        duration: seconds in which they are sent.
        time_limit: seconds after which what still runs has failed.
    """

    clients: int
    moments: Iterator[float] | None = None
    requests: int | None = None
    duration: float | None = None
    time_limit: float = math.inf


def simulate(
    options: BatchingOptions, info: ShardInfo, costs: StepCosts, overheads: Overheads, asked: Iterator[Asked],
    load: Load,
) -> list[Record]:  # fmt: skip
    """What happens to each request, by the time at which it was due.

    Args:
        info: the caches and limits of the shards.
        asked: requests in the order in which they are sent; the load ends with them.

    Raises UsageError where tokens are guessed, as nobody knows beforehand which guesses are right.
    """
    if info.draft_width:
        raise UsageError("speculate: cannot be simulated, as nobody knows beforehand which guesses are right")
    world = _World(options, info, costs, overheads, asked, load)
    world.run()
    return sorted(world.records, key=lambda record: record.start)


@dataclass(slots=True)
class _Open:
    """A request in the engine.

    `computed` positions are computed by the steps that were planned; so far it has, or will have by them, `length`.
    """

    record: Record
    prompt: int
    computed: int
    length: int


@dataclass(slots=True)
class _Step:
    """A plan at the shards: the requests that get a token by it, and when it is done."""

    number: int
    ids: list[int]
    counts: list[int]
    ends: float
    decodes: bool


class _World:
    def __init__(
        self, options: BatchingOptions, info: ShardInfo, costs: StepCosts, overheads: Overheads,
        asked: Iterator[Asked], load: Load,
    ) -> None:  # fmt: skip
        self.records: list[Record] = []
        self._cycle = Cycle(options, info)
        self._places = options.max_concurrent_requests
        self._costs = costs
        self._overheads = overheads
        self._asked = asked
        self._load = load
        self._until = min(load.duration or math.inf, load.time_limit)
        self._left: float = load.requests or math.inf
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._ids = count()
        self._open: dict[int, _Open] = {}
        self._steps: list[_Step] = []
        self._free = 0.0  # when the shards are done with all they have
        self._moments = load.moments
        self._waits: float | None = None  # the moment of a request for which all clients are busy
        self._busy = 0

    def run(self) -> None:
        """Until nobody asks any more and all is answered, or the time is over."""
        if self._moments is None:
            for _ in range(self._load.clients):
                self._at(0.0, self._client)
        else:
            self._next_moment(0.0, self._moments)
        while self._events or self._steps:
            event = self._events[0][0] if self._events else math.inf
            outcome = self._steps[0].ends if self._steps else math.inf
            if min(event, outcome) >= self._load.time_limit:
                break
            if event < outcome:
                now, _, act, arguments = heapq.heappop(self._events)
                act(now, *arguments)
            elif not self._skip(event):
                self._outcome(outcome)
        self._give_up()

    def _at(self, moment: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (moment, next(self._order), act, arguments))

    # who asks

    def _client(self, now: float) -> None:
        """One of a closed loop."""
        if now < self._until:
            self._send(now, now)

    def _next_moment(self, now: float, moments: Iterator[float]) -> None:
        due = next(moments, math.inf)
        if self._left > 0 and due < self._until:
            self._at(max(now, due), self._arrive, due, moments)

    def _arrive(self, now: float, due: float, moments: Iterator[float]) -> None:
        """One of an open loop: sent when it is due, or when a client is free; later ones wait behind it."""
        if self._busy < self._load.clients:
            self._send(due, now)
            self._next_moment(now, moments)
        else:
            self._waits = due

    def _send(self, due: float, now: float) -> None:
        request = next(self._asked, None) if self._left > 0 else None
        if request is None:
            self._left = 0
            return
        self._left -= 1
        self._busy += 1
        record = Record(due, now, prompt_tokens=len(request.prompt_ids))
        self.records.append(record)
        self._at(now + self._overheads.before, self._enter, record, request)

    def _enter(self, now: float, record: Record, asked: Asked) -> None:
        if len(self._open) >= self._places:
            self._end(record, now, "status 429: the server is full")
            return
        request = GenerationRequest(
            prompt_ids=asked.prompt_ids,
            sampling=SamplingParams(),
            stopping=StoppingParams(max_new_tokens=asked.new_tokens, ignore_eos=True),
        )
        sequence = batching.Sequence(next(self._ids), request)
        try:
            self._cycle.add(sequence, now)
        except ValidationError as error:
            self._end(record, now, str(error))
            return
        self._open[sequence.id] = _Open(record, len(asked.prompt_ids), 0, len(asked.prompt_ids))
        if not self._cycle.full:
            self._at(now, self._plan)  # behind those that come at the same moment, as the loop of the engine does

    def _end(self, record: Record, now: float, error: str | None = None) -> None:
        record.end, record.error = now, error
        self._busy -= 1
        if self._moments is None:
            self._at(now + (PAUSE if error else 0.0), self._client)
        elif self._waits is not None:
            due, self._waits = self._waits, None
            self._arrive(now, due, self._moments)

    def _give_up(self) -> None:
        for record in self.records:
            if not record.end and record.error is None:
                record.end, record.error = self._load.time_limit, f"not done after {self._load.time_limit:g} s"

    # engine and shards

    def _plan(self, now: float) -> None:
        for plan in self._cycle.plans(now):
            shape, counts = self._look(plan)
            self._free = max(self._free, now) + self._costs.seconds(shape)
            decodes = not shape.prompt_tokens
            self._steps.append(_Step(plan.step, plan.ids, counts, self._free, decodes))

    def _look(self, plan: Plan) -> tuple[Shape, list[int]]:
        """What a plan costs, and how many tokens each of its sequences gets."""
        for new in plan.new:
            self._open[new.id].computed = new.cached
        tokens = pairs = rows = context = ends = 0
        counts = []
        for id, positions in zip(plan.ids, plan.counts, strict=True):
            open = self._open[id]
            if open.computed < open.prompt:
                tokens += positions
                pairs += positions * open.computed + positions * (positions + 1) // 2
                ends += open.computed + positions == open.prompt
            else:
                rows += 1
                context += open.length
            open.computed += positions
            yields = open.computed >= open.length
            open.length += yields
            counts.append(int(yields))
        return Shape(tokens, pairs, rows, context, ends), counts

    def _outcome(self, now: float) -> None:
        step = self._steps.pop(0)
        yields = sum(step.counts)
        outcome = Outcome(step.number, step.ids, step.counts, [_TOKEN] * yields, [0.0] * yields)
        arrival = now + self._overheads.after
        for progress in self._cycle.commit(outcome, now):
            record = self._open[progress.sequence.id].record
            record.arrivals.append(arrival)
            record.tokens += 1
            if progress.finish is not None:
                del self._open[progress.sequence.id]
                self._at(arrival, self._answered, record)
        self._plan(now)

    def _answered(self, now: float, record: Record) -> None:
        self._end(record, now)

    def _skip(self, until: float) -> bool:
        """Take the outcomes that come before `until` in one go, as far as the plans behind them are all alike."""
        if len(self._steps) < 2 or not all(step.decodes for step in self._steps):
            return False
        most = self._cycle.scheduler.steady
        first, second = self._steps
        if most < 1 or first.ids != second.ids:
            return False
        rows = len(first.ids)
        context = sum(self._open[id].length for id in first.ids)
        times, ends, free = list[float](), second.ends, self._free
        done = first.ends
        while len(times) < most and done < until and done < self._load.time_limit:
            times.append(done)
            free += self._costs.seconds(Shape(0, 0, rows, context))
            context += rows
            done, ends = ends, free
        self._pass_over(first, second, times)
        first.ends, second.ends, self._free = done, ends, free
        return bool(times)

    def _pass_over(self, first: _Step, second: _Step, times: list[float]) -> None:
        """Those outcomes came, and as many plans were made."""
        steps, after = len(times), self._overheads.after
        arrivals = [moment + after for moment in times]
        self._cycle.scheduler.skip(steps)
        for id in first.ids:
            open = self._open[id]
            open.record.arrivals += arrivals
            open.record.tokens += steps
            open.computed += steps
            open.length += steps
        first.number += steps
        second.number += steps
