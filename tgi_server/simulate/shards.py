"""Shards by events: plans one after the other, each of which takes what it costs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from tgi_server.bench.completion import Record
from tgi_server.bench.workload import Request
from tgi_server.simulate.costs import Shape, StepCosts
from tgi_server.types import Plan

_FORESEEN = 64
"""Most steps that are looked ahead at a time; a request that comes meanwhile makes most of them void."""


@dataclass
class Simulated(Record):
    """What happened to one simulated request.

    Attributes:
        replica: that answered it, from 0 on.
        cached_tokens: of its prompt, found in the replica's cache.
    """

    replica: int = 0
    cached_tokens: int = 0


@dataclass(slots=True)
class Open:
    """A request in the engine.

    Its first `computed` positions are computed by the steps that were planned, by which it will have `known` tokens.
    """

    record: Simulated
    asked: Request
    prompt: int
    computed: int
    known: int


@dataclass(slots=True)
class Step:
    """A plan at the shards: how many tokens each of its sequences gets by it, and when it is done."""

    number: int
    ids: list[int]
    counts: list[int]
    ends: float
    decodes: bool


class Shards:
    """Plans one after the other, each done when it has taken what it costs."""

    def __init__(self, costs: StepCosts) -> None:
        self.open: dict[int, Open] = {}
        self.steps: deque[Step] = deque()
        self._costs = costs
        self._free = 0.0  # when all that was sent is done
        self._ends: list[float] = []  # of the steps under way and those that were foreseen

    @property
    def done(self) -> float:
        """When the next outcome is there."""
        return self.steps[0].ends if self.steps else math.inf

    def send(self, plan: Plan, now: float) -> None:
        """Work on a plan behind those that were sent before."""
        shape, counts = self._look(plan)
        self._free = max(self._free, now) + self._costs.seconds(shape)
        self.steps.append(Step(plan.step, plan.ids, counts, self._free, not shape.prompt_tokens))

    @property
    def alike(self) -> bool:
        """Whether two steps are under way that decode the same sequences."""
        steps = self.steps
        return len(steps) == 2 and steps[0].decodes and steps[1].decodes and steps[0].ids == steps[1].ids

    def foresee(self, most: int) -> float:
        """Look at the next steps, so many at most, each with a plan that is like the last; returns when they are over.

        That is when the outcome behind them is there. They are taken by `repeat`.
        """
        first, second = self.steps
        rows, context = len(first.ids), sum(self.open[id].known for id in first.ids)
        self._ends = [first.ends, second.ends]
        free = self._free
        for _ in range(min(most, _FORESEEN)):
            free += self._costs.seconds(Shape(0, 0, rows, context))
            context += rows
            self._ends.append(free)
        return self._ends[-2]

    def repeat(self, until: float) -> list[float]:
        """Times up to `until` at which outcomes that were foreseen are there; as many steps take their place."""
        count = min(bisect_right(self._ends, until), len(self._ends) - 2)
        if count <= 0:
            return []
        first, second = self.steps
        times, self._ends = self._ends[:count], self._ends[count:]
        first.ends, second.ends = self._ends[:2]
        self._free = second.ends
        for id in first.ids:
            self.open[id].computed += count
            self.open[id].known += count
        first.number += count
        second.number += count
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
