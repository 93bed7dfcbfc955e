"""Chunked prefill: plan, fake outcome, assert."""

from typing import Any

import pytest

from tests.unit.batching.test_scheduler import outcome, planned, sequence, shards
from tgi_server.batching.scheduler import Scheduler
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ValidationError
from tgi_server.types import Outcome, Plan

Rows = list[tuple[int, int]]


def scheduler(blocks: int = 64, chunk: int = 16, **options: Any) -> Scheduler:
    return Scheduler(BatchingOptions(prefill_chunk_tokens=chunk, **options), shards(blocks))


def rows(plan: Plan) -> Rows:
    return list(zip(plan.ids, plan.counts, strict=True))


def test_a_long_prompt_is_split_and_its_plans_run_ahead() -> None:
    s = scheduler()
    s.add(sequence(0, prompt=40, new=2))
    first, second, third, last = (planned(s) for _ in range(4))
    assert [rows(plan) for plan in (first, second, third, last)] == [[(0, 16)], [(0, 16)], [(0, 8)], [(0, 1)]]
    assert [new.id for new in first.new] == [0] and not (second.new or third.new)
    assert s.plan(0.0) is None
    for plan in (first, second):
        assert s.commit(Outcome(plan.step, [0], [0], [], []), 0.0) == []
    assert [len(s.commit(outcome(plan), 0.0)) for plan in (third, last)] == [1, 1]
    assert s.reserved_tokens == 0


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([4, 4, 8, 4], [[(0, 4), (1, 4), (2, 8)], [(0, 1), (1, 1), (2, 1), (3, 4)]]),
        ([24, 4, 24], [[(0, 16)], [(0, 8), (1, 4), (2, 4)], [(0, 1), (1, 1), (2, 16)], [(0, 1), (1, 1), (2, 4)]]),
        ([16, 16], [[(0, 16)], [(0, 1), (1, 16)], [(0, 1), (1, 1)]]),
        ([40, 1], [[(0, 16)], [(0, 16)], [(0, 8), (1, 1)], [(0, 1), (1, 1)]]),
    ],
)
def test_the_chunk_is_shared_first_come_first_served(prompts: list[int], expected: list[Rows]) -> None:
    s = scheduler()
    for id, prompt in enumerate(prompts):
        s.add(sequence(id, prompt=prompt, new=50))
    assert [rows(planned(s)) for _ in expected] == expected


def test_running_ones_go_on_while_a_prompt_is_computed() -> None:
    s = scheduler()
    s.add(sequence(0, new=50))
    planned(s)
    s.add(sequence(1, prompt=40, new=50))
    plans = []
    for _ in range(4):
        plans.append(rows(planned(s)))
    assert plans == [[(0, 1), (1, 16)], [(0, 1), (1, 16)], [(0, 1), (1, 8)], [(0, 1), (1, 1)]]


def test_the_prompt_tokens_of_a_step_are_told() -> None:
    s = scheduler()
    s.add(sequence(0, new=50))
    s.add(sequence(1, prompt=20, new=50))
    told = []
    for _ in range(3):
        planned(s)
        told.append((s.prefilled, s.joined))
    assert told == [(16, None), (8, None), (0, None)]
    s.add(sequence(2))
    planned(s)
    assert (s.prefilled, s.joined) == (4, "backpressure")


def test_an_abort_in_the_middle_of_a_prompt_frees_its_place_and_the_chunk() -> None:
    s = scheduler(blocks=4)
    s.add(sequence(0, prompt=60, new=4))
    s.add(sequence(1, prompt=60, new=4))
    assert rows(planned(s)) == rows(planned(s)) == [(0, 16)]
    s.abort(0, 0.0)
    plan = planned(s)
    assert (rows(plan), plan.finished) == ([(1, 16)], [0])


def test_blocks_and_places_limit_as_ever() -> None:
    s = scheduler(blocks=3, chunk=64)
    for id, prompt in enumerate([20, 20, 4]):
        s.add(sequence(id, prompt=prompt, new=4))
    assert rows(planned(s)) == [(0, 20)], "two blocks, and one is left: the last one waits behind the second"
    s = scheduler(chunk=64, max_batch_size=2)
    for id in range(3):
        s.add(sequence(id, new=4))
    assert rows(planned(s)) == [(0, 4), (1, 4)]


def test_only_the_cache_limits_a_prompt() -> None:
    s = scheduler(blocks=4, max_batch_prefill_tokens=20)
    s.add(sequence(0, prompt=60, new=5))
    with pytest.raises(ValidationError, match="max_batch_total_tokens"):
        s.add(sequence(1, prompt=60, new=6))
