"""One server by events: the engine's cycle with its scheduler, and shards.

Nothing that happens to other servers has a say in it, so it need not be at the same moment as they: runs of equal
steps are taken in one go, when they are over or when something comes in between.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.engine.cycle import Cycle
from tgi_server.errors import ValidationError
from tgi_server.simulate.costs import Overheads, StepCosts
from tgi_server.simulate.shards import Open, Shards
from tgi_server.types import GenerationRequest, Outcome, SamplingParams, ShardInfo, StoppingParams

_GREEDY = SamplingParams()

Ended = Callable[[float, Open], None]
"""Told when a request's last token is with its client."""


class Replica:
    """A server without its clients.

    Args:
        number: from 0 on.
        info: the caches and limits of the shards, which guess no tokens.

    Attributes:
        under_way: requests that were sent here and are not answered.
        due: the next moment at which `advance` has to be called.
    """

    def __init__(
        self, number: int, options: BatchingOptions, info: ShardInfo, costs: StepCosts, overheads: Overheads
    ) -> None:
        self.number = number
        self.under_way = 0
        self._options = options
        self._costs = costs
        self._after = overheads.after
        self._cycle = Cycle(options, info)
        self._ids = itertools.count()

    def begin(self, ended: Ended) -> None:
        """Begin with a clock at 0. Nothing may be left of what came before."""
        self._ended = ended
        self._shards = Shards(self._costs)
        self.under_way = 0
        self._look_ahead()

    def enter(self, now: float, each: Open, ids: list[int]) -> bool:
        """A request is there; returns whether `plan` has to be called, behind all that comes at the same moment.

        Raises ValidationError for one that is refused.
        """
        self.catch_up(now)
        stopping = StoppingParams(max_new_tokens=each.asked.new_tokens, ignore_eos=True)
        request = GenerationRequest(prompt_ids=ids, sampling=_GREEDY, stopping=stopping)
        sequence = Sequence(next(self._ids), request)
        self._check(sequence)
        self._cycle.add(sequence, now)
        self._shards.open[sequence.id] = each
        self._look_ahead()
        return not self._cycle.full

    def plan(self, now: float) -> None:
        """Send all that may be sent."""
        self.catch_up(now)
        self._send(now)
        self._look_ahead()

    def advance(self) -> None:
        """What is due."""
        if self._foreseen:
            self.catch_up(self.due)
        else:
            self._outcome(self.due)
            self._send(self.due)  # before clients can have heard of it
        self._look_ahead()

    def catch_up(self, now: float) -> None:
        """Take the outcomes that were foreseen up to now."""
        times = self._shards.repeat(now) if self._foreseen else []
        if not times:
            return
        self._cycle.scheduler.skip(len(times))
        arrivals = [moment + self._after for moment in times]
        for id in self._shards.steps[0].ids:
            record = self._shards.open[id].record
            record.arrivals += arrivals
            record.tokens += len(arrivals)

    def _look_ahead(self) -> None:
        """Which of the next plans are sure to be alike, and when something else is due."""
        most = self._cycle.scheduler.steady if self._shards.alike else 0
        self._foreseen = most > 0
        self.due = self._shards.foresee(most) if most else self._shards.done

    def _check(self, sequence: Sequence) -> None:
        """What the router refuses."""
        limits, length = self._options, sequence.input_length
        if self.under_way > limits.max_concurrent_requests:
            raise ValidationError("status 429: too many requests")
        if length > limits.max_input_length or length + sequence.max_new_tokens > limits.max_total_tokens:
            raise ValidationError(f"status 422: {length} prompt tokens and {sequence.max_new_tokens} new ones")

    def _send(self, now: float) -> None:
        for plan in self._cycle.plans(now):
            self._shards.send(plan, now)

    def _outcome(self, now: float) -> None:
        step = self._shards.steps.popleft()
        total = sum(step.counts)
        outcome = Outcome(step.number, step.ids, step.counts, [0] * total, [0.0] * total)
        arrival = now + self._after
        for progress in self._cycle.commit(outcome, now):
            sequence = progress.sequence
            each = self._shards.open[sequence.id]
            each.record.arrivals.append(arrival)
            each.record.tokens += 1
            if progress.finish is not None:
                each.record.cached_tokens = sequence.cached
                del self._shards.open[sequence.id]
                self._ended(arrival, each)
