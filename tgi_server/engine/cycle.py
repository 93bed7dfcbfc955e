"""The engine's cycle without anything that waits: plans made ahead, outcomes taken in.

The asyncio loop of `engine.py` and the simulator drive it; the clock is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator

from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Progress, Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.types import Outcome, Plan, ShardInfo

PLANS_IN_FLIGHT = 2
"""One that the shards work on and one that they find ready when it is done."""


class Cycle:
    """Sequences on their way through steps. Times are seconds on the caller's clock.

    Who drives it sends what `plans` yields, each before it asks for the next one, and after every `commit` ends the
    sequences that it knows to be over (`abort`) and goes through `plans` again.

    Attributes:
        scheduler: decides what each step computes.
        in_flight: plans of which the outcome has not come.
    """

    def __init__(self, options: BatchingOptions, info: ShardInfo) -> None:
        self.scheduler = Scheduler(options, info)
        self.in_flight = 0

    def add(self, sequence: Sequence, now: float) -> None:
        """Queue a sequence. Raises ValidationError for one that could never run."""
        sequence.arrived = now
        self.scheduler.add(sequence)

    def abort(self, id: int, now: float) -> None:
        """End a sequence; one that has ended already is left alone."""
        self.scheduler.abort(id, now)

    def plan(self, now: float) -> Plan | None:
        """The next step, to be sent; None when the shards have enough before them, or nothing is to be done."""
        if self.full:
            return None
        plan = self.scheduler.plan(now)
        if plan is not None:
            self.in_flight += 1
        return plan

    def plans(self, now: float) -> Iterator[Plan]:
        """All that may be sent now."""
        while (plan := self.plan(now)) is not None:
            yield plan

    @property
    def full(self) -> bool:
        """Whether the shards have enough before them."""
        return self.in_flight >= PLANS_IN_FLIGHT

    def commit(self, outcome: Outcome, now: float) -> list[Progress]:
        """The outcome of the oldest plan in flight: the progress of each sequence that is still open."""
        self.in_flight -= 1
        return self.scheduler.commit(outcome, now)
