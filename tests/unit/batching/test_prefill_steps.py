"""A prefill in several steps: plan, fake outcome, assert. Ten tokens fill a step."""

from typing import Any

import pytest

from tests.unit.batching import test_scheduler
from tests.unit.batching.test_scheduler import outcome, planned, sequence
from tgi_server.batching.scheduler import Scheduler


def scheduler(prompts: list[int], new: int = 50, step: int = 10, **options: Any) -> Scheduler:
    """With a sequence of each prompt length waiting."""
    s = test_scheduler.scheduler(step=step, **{"max_waiting_tokens": 0, **options})
    for id, prompt in enumerate(prompts):
        s.add(sequence(id, prompt=prompt, new=new))
    return s


def ids(s: Scheduler, steps: int) -> list[list[int]]:
    return [planned(s).ids for _ in range(steps)]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([4, 4, 4, 4], [[0, 1, 2], [3], [0, 1, 2, 3]]),  # filled by the third, which is not split
        ([5, 5, 5], [[0, 1], [2], [0, 1, 2]]),
        ([30, 1, 1], [[0], [1, 2], [0, 1, 2]]),  # more than a step is one step all the same
        ([1, 30, 1], [[0, 1], [2], [0, 1, 2]]),
        ([10, 10, 10], [[0], [1], [2], [0, 1, 2]]),
        ([1, 1, 1], [[0, 1, 2], [0, 1, 2]]),
    ],
)
def test_steps_are_filled_with_whole_prompts_and_then_all_decode(prompts: list[int], expected: list[list[int]]) -> None:
    s = scheduler(prompts)
    plans = [planned(s) for _ in expected]
    assert [plan.ids for plan in plans] == expected
    assert [plan.counts for plan in plans[:-1]] == [[prompts[id] for id in plan.ids] for plan in plans[:-1]]


def test_the_first_tokens_come_before_the_last_prompt_is_planned() -> None:
    s = scheduler([10, 10, 10])
    first, second = planned(s), planned(s)
    (progress,) = s.commit(outcome(first), 0.0)
    assert (progress.sequence.id, s.waiting) == (0, 1)
    assert planned(s).ids == [2]
    assert [one.sequence.id for one in s.commit(outcome(second), 0.0)] == [1]


def test_the_budget_is_that_of_all_steps() -> None:
    s = scheduler([10] * 5, max_batch_prefill_tokens=30)
    assert ids(s, 7) == [[0], [1], [2], [0, 1, 2], [3], [4], [0, 1, 2, 3, 4]]


def test_what_does_not_fit_the_rest_of_the_budget_waits_for_the_next_prefill() -> None:
    s = scheduler([10, 10, 11, 1], max_batch_prefill_tokens=30)
    assert ids(s, 5) == [[0], [1], [0, 1], [2], [3]], "nor does the short one overtake"


def test_who_arrives_meanwhile_joins_whatever_the_rule() -> None:
    s = scheduler([10, 10], max_batch_prefill_tokens=40, waiting_served_ratio=100, max_waiting_tokens=100)
    assert ids(s, 2) == [[0], [1]]
    s.add(sequence(2, prompt=10))
    assert ids(s, 2) == [[2], [0, 1, 2]]
    s.add(sequence(3, prompt=10))
    assert ids(s, 2) == [[0, 1, 2]] * 2, "it came after the prefill, and the rule wants a hundred times as many"


def test_a_trickle_of_short_prompts_does_not_keep_the_running_waiting() -> None:
    s = scheduler([1], max_batch_prefill_tokens=30)
    started = []
    for id in range(1, 5):
        started.append(planned(s).ids)
        s.add(sequence(id, prompt=1))
    assert started == [[0], [1], [2], [0, 1, 2]], "each step counts as a full one"


def test_the_rule_is_asked_once_a_prefill() -> None:
    s = scheduler([1, 1], waiting_served_ratio=2.0, max_waiting_tokens=100)
    assert ids(s, 2) == [[0, 1], [0, 1]]
    for id in range(2, 6):
        s.add(sequence(id, prompt=10))
    plans, causes = [], []
    for _ in range(5):
        plans.append(planned(s).ids)
        causes.append(s.joined)
    assert plans == [[2], [3], [4], [5], [0, 1, 2, 3, 4, 5]], "four wait for two, then three for three"
    assert causes == ["backpressure", None, None, None, None], "one prefill joined the running ones"


def test_without_free_blocks_in_the_middle_the_running_go_on() -> None:
    s = scheduler([10, 10, 10], new=4, blocks=2)
    assert ids(s, 6) == [[0], [1], [0, 1], [0, 1], [0, 1], [2]]


def test_without_a_place_in_the_middle_the_running_go_on() -> None:
    s = scheduler([10, 10, 10, 10], new=2, max_batch_size=3)
    assert ids(s, 5) == [[0], [1], [2], [0, 1, 2], [3]]


def test_an_abort_in_the_middle_lets_the_others_go_on() -> None:
    s = scheduler([10, 10, 10, 10])
    planned(s)
    s.abort(0, 0.0)
    s.abort(2, 0.0)
    plan = planned(s)
    assert (plan.ids, plan.finished) == ([1], [0])
    assert ids(s, 2) == [[3], [1, 3]]


def test_prompts_of_which_only_one_token_is_wanted_follow_each_other() -> None:
    s = scheduler([10] * 5, new=1, max_batch_prefill_tokens=20)
    assert ids(s, 5) == [[0], [1], [2], [3], [4]], "nobody runs, so nobody has to have a turn in between"
    assert s.plan(0.0) is None


def test_what_a_step_computes_is_found_by_the_next() -> None:
    s = scheduler([], step=32)
    for id in range(4):
        s.add(sequence(id, prompt=40, text=7))
    first, second = planned(s), planned(s)
    assert [new.cached for plan in (first, second) for new in plan.new] == [0, 32, 32, 32]
    assert (first.counts, second.counts) == ([40], [8, 8, 8])
