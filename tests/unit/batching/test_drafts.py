"""Steps that may bring more than one token: plan, fake outcome, assert."""

from __future__ import annotations

from typing import Any

from tests.unit.batching.test_scheduler import EOS, planned, sequence, shards
from tgi_server.batching.scheduler import Scheduler
from tgi_server.config.schema import BatchingOptions
from tgi_server.types import FinishReason, Outcome, Plan


def scheduler(draft: int = 3, blocks: int = 64, **options: Any) -> Scheduler:
    return Scheduler(BatchingOptions(**options), shards(blocks, draft_width=draft))


def outcome(plan: Plan, *counts: int, token: int = 9) -> Outcome:
    total = sum(counts)
    return Outcome(plan.step, plan.ids, list(counts), [token] * total, [-1.0] * total)


def test_plans_count_on_one_token_and_learn_of_more() -> None:
    s = scheduler()
    s.add(sequence(0, new=8))
    first, second = planned(s), planned(s)
    assert (first.draft, second.draft, second.counts) == (3, 3, [1])
    s.commit(outcome(first, 1), 0.0)
    third = planned(s)
    (progress,) = s.commit(outcome(second, 4), 0.0)
    assert (len(progress.tokens), progress.finish, progress.sequence.committed) == (4, None, 5)
    fourth = planned(s)
    s.commit(outcome(third, 1), 0.0)
    fifth = planned(s)
    assert s.running == 0 and s.plan(0.0) is None, "six are known, two are planned"
    (progress,) = s.commit(outcome(fourth, 2), 0.0)
    assert progress.finish is FinishReason.LENGTH
    assert s.commit(outcome(fifth, 0), 0.0) == []
    assert s.reserved_tokens == 0


def test_more_tokens_than_counted_on_give_up_the_place_at_once() -> None:
    s = scheduler(max_batch_size=1, max_waiting_tokens=0)
    s.add(sequence(0, new=6))
    s.add(sequence(1))
    first, second = planned(s), planned(s)
    s.commit(outcome(first, 1), 0.0)
    third = planned(s)
    s.commit(outcome(second, 4), 0.0)
    plan = planned(s)
    assert (plan.ids, plan.finished) == ([1], [0]), "five are known, the last is planned"
    (progress,) = s.commit(outcome(third, 1), 0.0)
    assert progress.finish is FinishReason.LENGTH


def test_tokens_behind_the_last_are_dropped() -> None:
    s = scheduler()
    s.add(sequence(0, new=3))
    s.add(sequence(1, new=30))
    plans = [planned(s), planned(s)]
    s.commit(outcome(plans[0], 1, 1), 0.0)
    length, end = s.commit(
        Outcome(plans[1].step, [0, 1], [4, 3], [9, 9, 9, 9, 9, EOS, 9], [-1.0] * 7), 0.0
    )  # fmt: skip
    assert (len(length.tokens), length.finish) == (2, FinishReason.LENGTH)
    assert (list(end.tokens), end.finish) == ([9, EOS], FinishReason.EOS_TOKEN)


def test_guessed_tokens_have_room() -> None:
    for draft, blocks in ((0, 1), (1, 2), (2, 2)):
        s = scheduler(draft)
        s.add(sequence(0, prompt=11, new=6))
        assert len(planned(s).new[0].blocks[0]) == blocks
