"""Clients, engine and shards by events instead of by the clock.

The engine's cycle and its scheduler are the real ones. Steps take what a table says, and what comes of them is known
beforehand: one token for each sequence whose prompt is computed. Runs of equal steps are taken in one go.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tgi_server.batching.sequence import Sequence
from tgi_server.bench.completion import Record
from tgi_server.bench.load import PAUSE
from tgi_server.bench.turns import Turns
from tgi_server.bench.workload import Request
from tgi_server.config.schema import BatchingOptions
from tgi_server.engine.cycle import Cycle
from tgi_server.errors import ValidationError
from tgi_server.simulate.costs import Overheads, Shape, StepCosts
from tgi_server.types import GenerationRequest, Outcome, Plan, SamplingParams, ShardInfo, StoppingParams

_GREEDY = SamplingParams()


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
) -> list[Record]:  # fmt: skip
    """What happens to each request, by the time it was due.

    Args:
        info: the caches and limits of the shards, which guess no tokens.
        asked: in the order in which requests are due; the load ends with them.
        ids: the tokens of a request's prompt.
        warmup: what is asked, and answered, before.
    """
    world = _World(options, info, costs, overheads, ids)
    if warmup is not None:
        world.run(*warmup)
    return world.run(asked, load)


@dataclass(slots=True)
class _Open:
    """A request in the engine.

    Its first `computed` positions are computed by the steps that were planned, by which it will have `known` tokens.
    """

    record: Record
    asked: Request
    prompt: int
    computed: int
    known: int


@dataclass(slots=True)
class _Step:
    """A plan at the shards: how many tokens each of its sequences gets by it, and when it is done."""

    number: int
    ids: list[int]
    counts: list[int]
    ends: float
    decodes: bool


class _Shards:
    """Plans one after the other, each done when it has taken what it costs."""

    def __init__(self, costs: StepCosts) -> None:
        self.open: dict[int, _Open] = {}
        self.steps: deque[_Step] = deque()
        self._costs = costs
        self._free = 0.0  # when all that was sent is done

    @property
    def done(self) -> float:
        """When the next outcome is there."""
        return self.steps[0].ends if self.steps else math.inf

    def send(self, plan: Plan, now: float) -> None:
        """Work on a plan behind those that were sent before."""
        shape, counts = self._look(plan)
        self._free = max(self._free, now) + self._costs.seconds(shape)
        self.steps.append(_Step(plan.step, plan.ids, counts, self._free, not shape.prompt_tokens))

    def repeat(self, most: int, until: float) -> list[float]:
        """Times before `until` at which the next outcomes are there, if each has a plan made that is like the last.

        At most so many; as many steps have then taken the place of those that were under way.
        """
        first, second = self.steps
        rows, context = len(first.ids), sum(self.open[id].known for id in first.ids)
        times = list[float]()
        while len(times) < most and first.ends < until:
            times.append(first.ends)
            self._free += self._costs.seconds(Shape(0, 0, rows, context))
            context += rows
            first.ends, second.ends = second.ends, self._free
        for id in first.ids:
            self.open[id].computed += len(times)
            self.open[id].known += len(times)
        first.number += len(times)
        second.number += len(times)
        return times

    def _look(self, plan: Plan) -> tuple[Shape, list[int]]:
        """What a step computes, and how many tokens each of its sequences gets."""
        for new in plan.new:
            self.open[new.id].computed = new.cached
        tokens = pairs = rows = context = ends = 0
        counts = []
        for id, count in zip(plan.ids, plan.counts, strict=True):
            each = self.open[id]
            computed = each.computed + count
            if each.computed < each.prompt:
                tokens += count
                pairs += count * each.computed + count * (count + 1) // 2
                ends += computed == each.prompt
            else:
                rows += 1
                context += each.known
            each.computed = computed
            yields = int(computed >= each.known)
            each.known += yields
            counts.append(yields)
        return Shape(tokens, pairs, rows, context, ends), counts


class _World:
    def __init__(
        self, options: BatchingOptions, info: ShardInfo, costs: StepCosts, overheads: Overheads,
        ids: Callable[[Request], list[int]],
    ) -> None:  # fmt: skip
        self._options = options
        self._costs = costs
        self._overheads = overheads
        self._prompt = ids
        self._cycle = Cycle(options, info)
        self._order = itertools.count()
        self._ids = itertools.count()

    def run(self, asked: Iterator[Request], load: Load) -> list[Record]:
        """All of a load, on a clock that begins at 0. Nothing may be left of one before."""
        self._asked = asked
        self._turns = Turns(asked)
        self._load = load
        self._shards = _Shards(self._costs)
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._records: list[Record] = []
        self._under_way = 0
        self._left: float = load.requests or math.inf
        self._until = min(load.duration or math.inf, load.time_limit)
        self._places = load.clients
        self._queue: deque[Request] = deque()  # those of an open loop that are due and found no place
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
        while self._events or self._shards.steps:
            event = self._events[0][0] if self._events else math.inf
            outcome = self._shards.done
            if min(event, outcome) > self._load.time_limit:
                return
            if event < outcome:
                now, _, action, arguments = heapq.heappop(self._events)
                action(now, *arguments)
            elif not self._skip(event):
                self._outcome(outcome)

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
        record = Record(due, now, prompt_tokens=len(ids))
        self._records.append(record)
        self._under_way += 1
        self._at(now + self._overheads.before, self._enter, _Open(record, asked, len(ids), 0, len(ids)), ids)

    def _enter(self, now: float, each: _Open, ids: list[int]) -> None:
        stopping = StoppingParams(max_new_tokens=each.asked.new_tokens, ignore_eos=True)
        request = GenerationRequest(prompt_ids=ids, sampling=_GREEDY, stopping=stopping)
        sequence = Sequence(next(self._ids), request)
        try:
            self._check(sequence)
            self._cycle.add(sequence, now)
        except ValidationError as error:
            self._end(now, each, str(error))
            return
        self._shards.open[sequence.id] = each
        if not self._cycle.full:
            self._at(now, self._plan)  # behind what comes at the same moment, as in the loop of the engine

    def _check(self, sequence: Sequence) -> None:
        """What the router refuses."""
        limits, length = self._options, sequence.input_length
        if self._under_way > limits.max_concurrent_requests:
            raise ValidationError("status 429: too many requests")
        if length > limits.max_input_length or length + sequence.max_new_tokens > limits.max_total_tokens:
            raise ValidationError(f"status 422: {length} prompt tokens and {sequence.max_new_tokens} new ones")

    def _plan(self, now: float) -> None:
        for plan in self._cycle.plans(now):
            self._shards.send(plan, now)

    def _outcome(self, now: float) -> None:
        step = self._shards.steps.popleft()
        total = sum(step.counts)
        outcome = Outcome(step.number, step.ids, step.counts, [0] * total, [0.0] * total)
        arrival = now + self._overheads.after
        for progress in self._cycle.commit(outcome, now):
            each = self._shards.open[progress.sequence.id]
            each.record.arrivals.append(arrival)
            each.record.tokens += 1
            if progress.finish is not None:
                del self._shards.open[progress.sequence.id]
                self._at(arrival, self._end, each, None)
        self._plan(now)  # before clients can have heard of it

    def _skip(self, event: float) -> bool:
        """Take the outcomes before an event in one go, as far as the plans behind them are sure to be alike."""
        steps = self._shards.steps
        if len(steps) < 2 or not (steps[0].decodes and steps[1].decodes and steps[0].ids == steps[1].ids):
            return False
        most = self._cycle.scheduler.steady
        times = self._shards.repeat(most, min(event, self._load.time_limit)) if most else []
        if not times:
            return False
        self._cycle.scheduler.skip(len(times))
        arrivals = [moment + self._overheads.after for moment in times]
        for id in steps[0].ids:
            record = self._shards.open[id].record
            record.arrivals += arrivals
            record.tokens += len(arrivals)
        return True

    def _end(self, now: float, each: _Open, error: str | None) -> None:
        each.record.end, each.record.error = now, error
        self._under_way -= 1
        if self._load.closed:
            self._turns.done(each.asked)
            self._at(now + (PAUSE if error else 0.0), self._client)
        elif self._queue:
            request = self._queue.popleft()
            self._send(now, request, request.at or 0.0)
        else:
            self._places += 1
