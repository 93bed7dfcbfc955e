"""Runs of steps that are taken in one go leave the scheduler as single steps would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.rpc.fake import FAKE_INFO
from tgi_server.types import (
    CacheKind,
    GenerationRequest,
    GroupInfo,
    Outcome,
    Plan,
    SamplingParams,
    ShardInfo,
    StoppingParams,
)

WINDOWED = replace(FAKE_INFO, groups=[GroupInfo(CacheKind.FULL, None, 64), GroupInfo(CacheKind.WINDOW, 32, 64)])
SMALL = replace(FAKE_INFO, groups=[GroupInfo(CacheKind.FULL, None, 12)], efficient_tokens=16)

OPTIONS = st.builds(
    BatchingOptions,
    max_batch_size=st.sampled_from([None, 2, 3]),
    prefill_chunk_tokens=st.sampled_from([None, 16, 40]),
    max_waiting_tokens=st.integers(0, 30),
    waiting_served_ratio=st.sampled_from([0.0, 0.5, 1.2, 3.0]),
    max_batch_prefill_tokens=st.sampled_from([64, 128]),
    prefix_caching=st.sampled_from([None, False]),
)
ARRIVALS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=8)
"""At which plan a sequence comes, its prompt's and its new tokens."""


class Driven:
    """A scheduler whose plans are known to be one ahead of their outcomes."""

    def __init__(self, options: BatchingOptions, info: ShardInfo, arrivals: list[tuple[int, int, int]]) -> None:
        self.scheduler = Scheduler(options, info)
        self.log: list[tuple[int, list[int], list[int], list[int]]] = []
        self._arrivals = sorted(arrivals)
        self._ids = iter(range(1000))
        self._left: dict[int, int] = {}
        self._flight: list[Plan] = []
        self._plans = 0

    @property
    def next_arrival(self) -> int:
        return self._arrivals[0][0] if self._arrivals else 1 << 30

    def run(self, skips: bool) -> None:
        while True:
            while self._plans >= self.next_arrival:
                self._add(*self._arrivals.pop(0)[1:])
            if not self._step(skips):
                if not self._arrivals:
                    return
                self._plans = self.next_arrival

    def _add(self, prompt: int, new: int) -> None:
        id = next(self._ids)
        stopping = StoppingParams(max_new_tokens=new, ignore_eos=True)
        request = GenerationRequest(prompt_ids=[*range(prompt)], sampling=SamplingParams(), stopping=stopping)
        self.scheduler.add(Sequence(id, request))
        self._left[id] = prompt

    def _step(self, skips: bool) -> bool:
        """Up to two plans in flight, then the outcome of the first; False when there is nothing to do."""
        while len(self._flight) < 2 and (plan := self.scheduler.plan(0.0)):
            self._note(plan)
        if not self._flight:
            return False
        if skips:
            self._skip()
        self._commit(self._flight.pop(0))
        return True

    def _note(self, plan: Plan) -> None:
        self._flight.append(plan)
        self._plans += 1
        self.log.append((plan.step, [*plan.ids], [*plan.counts], sorted(plan.finished)))

    def _skip(self) -> None:
        """As the simulator does it: no sequence is to come before the last plan of the run."""
        if len(self._flight) < 2 or self._flight[0].ids != self._flight[1].ids:
            return
        if any(self._left[id] for plan in self._flight for id in plan.ids):
            return
        finished = sorted(self.scheduler._finished)
        steps = min(self.scheduler.steady, max(0, self.next_arrival - self._plans - 1))
        if steps < 1:
            return
        ids, last = self._flight[1].ids, self._flight[1].step
        self.scheduler.skip(steps)
        for number in range(1, steps + 1):
            told = finished if number == 1 else []
            self.log.append((last + number, [*ids], [1] * len(ids), told))
        self._plans += steps
        self._flight = [replace(plan, step=plan.step + steps) for plan in self._flight]

    def _commit(self, plan: Plan) -> None:
        counts = []
        for id, positions in zip(plan.ids, plan.counts, strict=True):
            self._left[id] = max(0, self._left[id] - positions)
            counts.append(int(not self._left[id]))
        tokens = sum(counts)
        self.scheduler.commit(Outcome(plan.step, plan.ids, counts, [7] * tokens, [0.0] * tokens), 0.0)


def plans(
    options: BatchingOptions, info: ShardInfo, arrivals: list[tuple[int, int, int]], skips: bool
) -> Iterator[tuple[int, list[int], list[int], list[int]]]:
    driven = Driven(options, info, arrivals)
    driven.run(skips)
    assert not driven.scheduler.running
    assert not driven.scheduler.reserved_tokens
    yield from driven.log


@settings(deadline=None, max_examples=150)
@given(OPTIONS, st.sampled_from([FAKE_INFO, WINDOWED, SMALL]), ARRIVALS)
def test_the_plans_are_the_same(
    options: BatchingOptions, info: ShardInfo, arrivals: list[tuple[int, int, int]]
) -> None:
    one_by_one = list(plans(options, info, arrivals, skips=False))
    in_one_go = list(plans(options, info, arrivals, skips=True))
    assert in_one_go == one_by_one


def test_long_runs_are_taken_in_one_go() -> None:
    driven = Driven(BatchingOptions(), FAKE_INFO, [(0, 10, 60)])
    driven._add(10, 60)
    for plan in (driven.scheduler.plan(0.0), driven.scheduler.plan(0.0)):
        assert plan is not None
    assert driven.scheduler.steady == 57
