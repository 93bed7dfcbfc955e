"""Events on a made-up clock: clients, the scheduler with its plans in flight, and shards that take their time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Progress, Sequence
from tgi_server.bench.completion import Record
from tgi_server.bench.turns import Turns
from tgi_server.bench.workload import Request
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ValidationError
from tgi_server.simulate.costs import Overheads, Shape, StepCosts
from tgi_server.types import GenerationRequest, Outcome, Plan, SamplingParams, ShardInfo, StoppingParams

_PLANS_IN_FLIGHT = 2
_PAUSE = 0.1
"""Seconds that a client waits after a failure."""
_GREEDY = SamplingParams()


@dataclass(frozen=True, slots=True)
class Load:
    """When requests are sent; see `bench.workload.Workload`."""

    clients: int
    closed: bool = True
    requests: int | None = None
    duration: float | None = None
    time_limit: float = 600.0


def simulate(
    options: BatchingOptions, info: ShardInfo, costs: StepCosts, overheads: Overheads, asked: Iterator[Request],
    load: Load, ids: Callable[[Request], list[int]],
) -> list[Record]:  # fmt: skip
    """What happens to each request, by the time it was due.

    Args:
        asked: without end, in the order in which requests are due.
        ids: the tokens of a request's prompt.
    """
    return _World(options, info, costs, overheads, asked, load, ids).run()


class _Texts:
    """The sequences that the shards know: positions computed, prompt tokens, tokens known."""

    def __init__(self) -> None:
        self._known: dict[int, list[int]] = {}

    def advance(self, plan: Plan) -> tuple[Shape, list[int]]:
        """What a step computes, and how many tokens each of its sequences gets."""
        for id in plan.finished:
            self._known.pop(id, None)
        for new in plan.new:
            self._known[new.id] = [new.cached, len(new.prompt_ids), len(new.prompt_ids)]
        tokens = pairs = rows = context = ends = 0
        counts = []
        for id, count in zip(plan.ids, plan.counts, strict=True):
            each = self._known[id]
            computed, prompt, known = each
            each[0] = computed + count
            if computed < prompt:
                tokens += count
                pairs += count * computed + count * (count + 1) // 2
                ends += computed + count == prompt
            else:
                rows += 1
                context += known
            yields = int(computed + count >= known)
            each[2] += yields
            counts.append(yields)
        return Shape(tokens, pairs, rows, context, ends), counts


class _World:
    def __init__(
        self, options: BatchingOptions, info: ShardInfo, costs: StepCosts, overheads: Overheads,
        asked: Iterator[Request], load: Load, ids: Callable[[Request], list[int]],
    ) -> None:  # fmt: skip
        self._options = options
        self._costs = costs
        self._overheads = overheads
        self._asked = asked
        self._turns = Turns(asked)
        self._load = load
        self._prompt = ids
        self._scheduler = Scheduler(options, info)
        self._texts = _Texts()
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = itertools.count()
        self._ids = itertools.count()
        self._records: list[Record] = []
        self._of: dict[int, tuple[Record, Request]] = {}
        self._left: float = load.requests or math.inf
        self._until = min(load.duration or math.inf, load.time_limit)
        self._flying: deque[tuple[float, Plan, list[int]]] = deque()  # plans, by when their outcomes are there
        self._busy_until = 0.0
        self._places = load.clients
        self._queue: deque[Request] = deque()  # those of an open loop that are due and found no place

    def run(self) -> list[Record]:
        """All of it."""
        if self._load.closed:
            for _ in range(self._load.clients):
                self._at(0.0, self._client)
        else:
            self._next()
        events, flying, limit = self._events, self._flying, self._load.time_limit
        while events or flying:
            if flying and not (events and events[0][0] < flying[0][0]):
                if flying[0][0] > limit:
                    break
                self._take(*flying.popleft())
            elif events[0][0] > limit:
                break
            else:
                now, _, action, arguments = heapq.heappop(events)
                action(now, *arguments)
        for record, _ in self._of.values():
            record.error, record.end = f"not done after {self._load.time_limit:g} s", self._load.time_limit
        return sorted(self._records, key=lambda record: record.start)

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
        record = Record(due, now)
        self._records.append(record)
        stopping = StoppingParams(max_new_tokens=asked.new_tokens, ignore_eos=True)
        request = GenerationRequest(prompt_ids=self._prompt(asked), sampling=_GREEDY, stopping=stopping)
        sequence = Sequence(next(self._ids), request)
        self._of[sequence.id] = record, asked
        record.prompt_tokens = sequence.input_length
        self._at(now + self._overheads.before, self._enter, sequence)

    def _enter(self, now: float, sequence: Sequence) -> None:
        sequence.arrived = now
        try:
            self._check(sequence)
            self._scheduler.add(sequence)
        except ValidationError as error:
            self._end(now, sequence, str(error))
            return
        self._plan(now)

    def _check(self, sequence: Sequence) -> None:
        """What the router refuses."""
        limits, length = self._options, sequence.input_length
        if len(self._of) > limits.max_concurrent_requests:
            raise ValidationError("status 429: too many requests")
        if length > limits.max_input_length or length + sequence.max_new_tokens > limits.max_total_tokens:
            raise ValidationError(f"status 422: {length} prompt tokens and {sequence.max_new_tokens} new ones")

    def _plan(self, now: float) -> None:
        while len(self._flying) < _PLANS_IN_FLIGHT and (plan := self._scheduler.plan(now)):
            shape, counts = self._texts.advance(plan)
            self._busy_until = max(self._busy_until, now) + self._costs.seconds(shape)
            self._flying.append((self._busy_until, plan, counts))

    def _take(self, now: float, plan: Plan, counts: list[int]) -> None:
        total = sum(counts)
        outcome = Outcome(plan.step, plan.ids, counts, [0] * total, [0.0] * total)
        progresses = self._scheduler.commit(outcome, now)
        self._plan(now)  # before clients can have heard of it
        if self._overheads.after:
            self._at(now + self._overheads.after, self._deliver, progresses)
        else:
            self._deliver(now, progresses)

    def _deliver(self, now: float, progresses: list[Progress]) -> None:
        for progress in progresses:
            record, _ = self._of[progress.sequence.id]
            record.arrivals.append(now)
            record.tokens += 1
            if progress.finish:
                self._end(now, progress.sequence, None)

    def _end(self, now: float, sequence: Sequence, error: str | None) -> None:
        record, asked = self._of.pop(sequence.id)
        record.end, record.error = now, error
        if self._load.closed:
            self._turns.done(asked)
            self._at(now + (_PAUSE if error else 0.0), self._client)
        elif self._queue:
            request = self._queue.popleft()
            self._send(now, request, request.at or 0.0)
        else:
            self._places += 1
