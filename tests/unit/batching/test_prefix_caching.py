"""Prefix caching: plan, fake outcome, assert."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.batching.test_scheduler import EOS, outcome, planned, shards
from tgi_server.batching.prefix import block_keys
from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.types import GenerationRequest, Outcome, Plan, SamplingParams, StoppingParams

SYSTEM = list(range(40))
"""Two full blocks and a half."""


def scheduler(blocks: int = 64, **options: Any) -> Scheduler:
    """With the defaults, prefix caching is on."""
    return Scheduler(BatchingOptions(**{"max_waiting_tokens": 0, **options}), shards(blocks))


def sequence(id: int, prompt: list[int], new: int = 1, **sampling: Any) -> Sequence:
    stopping = StoppingParams(max_new_tokens=new)
    return Sequence(id, GenerationRequest(prompt_ids=prompt, sampling=SamplingParams(**sampling), stopping=stopping))


def done(s: Scheduler, *sequences: Sequence) -> Plan:
    """The prefill of `sequences`, committed."""
    for one in sequences:
        s.add(one)
    plan = planned(s)
    s.commit(outcome(plan), 0.0)
    return plan


def found(plan: Plan) -> list[int]:
    return [new.cached for new in plan.new]


def test_a_second_prompt_computes_only_what_differs() -> None:
    s = scheduler()
    assert found(done(s, sequence(0, SYSTEM))) == [0]
    plan = done(s, sequence(1, [*SYSTEM, 99]))
    assert (plan.counts, found(plan), plan.new[0].blocks) == ([9], [32], [[0, 1, 2]])
    assert s.prefilled == 9
    assert s.reserved_tokens == 0


@pytest.mark.parametrize(
    ("first", "second", "cached"),
    [
        (32, 32, 16),  # the last position is computed in a block of its own
        (32, 33, 32),
        (31, 40, 16),
        (15, 40, 0),
        (40, 8, 0),
    ],
)
def test_whole_blocks_before_the_last_position_are_shared(first: int, second: int, cached: int) -> None:
    s = scheduler()
    done(s, sequence(0, SYSTEM[:first]))
    assert found(done(s, sequence(1, SYSTEM[:second]))) == [cached]


def test_the_same_tokens_after_others_are_something_else() -> None:
    s = scheduler()
    done(s, sequence(0, SYSTEM))
    assert found(done(s, sequence(1, [7] * 16 + SYSTEM[16:]))) == [0]
    assert found(done(s, sequence(2, SYSTEM[:16] + [7] * 20))) == [16]


def test_keys_are_chained_and_cover_full_blocks() -> None:
    keys = block_keys(SYSTEM)
    assert len(keys) == 2 == len(set(keys))
    assert block_keys([*SYSTEM[:32], 1]) == keys
    assert block_keys(SYSTEM[16:32]) != keys[1:]
    assert block_keys(SYSTEM[:15]) == []


def test_what_keys_and_values_depend_on_beside_the_tokens_is_in_the_keys() -> None:
    plain, other = block_keys(SYSTEM), block_keys(SYSTEM, b"an adapter")
    assert set(plain).isdisjoint(other) and block_keys(SYSTEM, b"an adapter") == other


def test_blocks_are_found_once_they_are_planned() -> None:
    s = scheduler(max_batch_size=8)
    s.add(sequence(0, SYSTEM, new=9))
    planned(s)
    s.add(sequence(1, SYSTEM, new=9))
    planned(s)
    plan = planned(s)
    assert (found(plan), plan.new[0].blocks[0][:2]) == ([32], [0, 1])
    assert s.reserved_tokens == 16 * (3 + 1), "shared ones count once"


@pytest.mark.parametrize(
    ("options", "step", "counts"),
    [
        ({}, 4096, [[1000, *[8] * 15]]),
        ({}, 256, [[1000], [8] * 15]),
        ({"prefill_chunk_tokens": 512}, 4096, [[512], [488, 8, 8, 8], [1, 1, 1, 1, *[8] * 12]]),
        ({"prefix_caching": False, "max_batch_prefill_tokens": 16000}, 16000, [[1000] * 16]),
    ],
)
def test_choices_of_one_prompt_compute_it_once(options: dict[str, Any], step: int, counts: list[list[int]]) -> None:
    s = Scheduler(BatchingOptions(**options), shards(2048, step))
    prompt = list(range(1000))
    for id in range(16):
        s.add(sequence(id, prompt, new=9))
    assert [planned(s).counts for _ in counts] == counts


def test_what_a_step_shares_takes_blocks_once() -> None:
    s = scheduler(blocks=6, max_waiting_tokens=100)
    for id in range(3):
        s.add(sequence(id, SYSTEM, new=9))
    s.add(sequence(3, [7], new=9))
    plan = planned(s)
    assert (plan.ids, found(plan)) == ([0, 1, 2, 3], [0, 32, 32, 0])
    assert [new.blocks[0] for new in plan.new] == [[0, 1, 2], [0, 1, 3], [0, 1, 4], [5]]
    assert s.reserved_tokens == 6 * 16


def test_kept_blocks_that_several_find_are_taken_once() -> None:
    s = scheduler(blocks=5)
    done(s, sequence(0, SYSTEM))
    for id in range(1, 5):
        s.add(sequence(id, SYSTEM))
    assert (found(planned(s)), s.waiting) == ([32, 32, 32], 1), "two, and one more each"


def test_of_a_prompt_in_chunks_that_is_found_which_is_planned() -> None:
    s = scheduler(prefill_chunk_tokens=16)
    s.add(sequence(0, SYSTEM, new=9))
    planned(s)
    s.abort(0, 0.0)
    s.add(sequence(1, SYSTEM, new=9))
    assert found(planned(s)) == [16]
    planned(s)
    assert s.reserved_tokens == 3 * 16


def test_who_counts_on_what_a_failed_step_left_out_fails_with_it() -> None:
    s = scheduler()
    s.add(sequence(0, SYSTEM, new=9))
    s.add(sequence(9, [1] * 40, new=9))
    first = planned(s)
    s.add(sequence(1, SYSTEM, new=9))
    s.add(sequence(2, [3] * 40, new=9))
    planned(s)
    third = planned(s)
    assert (third.ids, found(third)) == ([1, 2], [32, 0])
    s.add(sequence(3, SYSTEM, new=9))
    ended = s.commit(Outcome(first.step, [0, 9], [0, 0], [], [], failed={0: "broken", 9: "broken"}), 0.0)
    assert sorted((one.sequence.id, str(one.failure)) for one in ended) == [(0, "broken"), (1, "broken"), (9, "broken")]
    assert (s.running, s.waiting, s.reserved_tokens) == (1, 1, 3 * 16)
    planned(s)
    assert found(planned(s)) == [0], "nothing is left of the first, nor of what was built on it"
    assert [one.failure for one in s.commit(outcome(third), 0.0)] == [None]


def test_an_abort_does_not_hide_that_a_step_failed() -> None:
    s = scheduler()
    s.add(sequence(0, SYSTEM, new=1))
    first = planned(s)
    s.abort(0, 0.0)
    s.add(sequence(1, SYSTEM, new=1))
    planned(s)
    (lost,) = s.commit(Outcome(first.step, [0], [0], [], [], failed={0: "broken"}), 0.0)
    assert (lost.sequence.id, str(lost.failure)) == (1, "broken"), "although all its steps are planned"
    assert found(done(s, sequence(2, SYSTEM))) == [0]


def test_what_the_steps_before_computed_outlives_a_failure() -> None:
    s = scheduler()
    done(s, sequence(0, SYSTEM))
    s.add(sequence(1, [*SYSTEM, *SYSTEM]))
    plan = planned(s)
    assert found(plan) == [32]
    s.commit(Outcome(plan.step, [1], [0], [], [], failed={1: "broken"}), 0.0)
    assert found(done(s, sequence(2, [*SYSTEM, *SYSTEM]))) == [32]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=12),
    chunk=st.sampled_from([None, 16]),
    ends=st.lists(st.integers(0, 99), max_size=30),
)
def test_prompts_that_share_nothing_run_as_without(
    lengths: list[tuple[int, int]], chunk: int | None, ends: list[int]
) -> None:
    """What is kept of those that are over keeps nobody waiting."""
    plans = []
    for caching in (True, False):
        s = Scheduler(BatchingOptions(prefix_caching=caching, prefill_chunk_tokens=chunk), shards(8, 32))
        waiting, own = [sequence(id, [id] * prompt, new) for id, (prompt, new) in enumerate(lengths)], []
        for turn in range(2000):
            if waiting and turn % 3 == 0:
                s.add(waiting.pop(0))
            plan = s.plan(0.0)
            own.append(plan and (plan.ids, plan.counts, plan.finished, s.reserved_tokens))
            if plan is not None:
                left = {id: sequence.prompt_left for id, sequence in s._running.items()}
                yielding = [0 if left.get(id) else 1 for id in plan.ids]
                tokens = [
                    EOS if (turn * 31 + id) % 100 in ends else 9 for id, n in zip(plan.ids, yielding, strict=True) if n
                ]
                s.commit(Outcome(plan.step, plan.ids, yielding, tokens, [-1.0] * len(tokens)), 0.0)
            elif not waiting:
                break
        plans.append(own)
    assert plans[0] == plans[1]


@pytest.mark.parametrize("new", [1, 2])
def test_a_sequence_that_is_planned_to_its_end_before_the_first_token_is_kept_too(new: int) -> None:
    s = scheduler()
    s.add(sequence(0, SYSTEM, new=new))
    plans = [planned(s) for _ in range(new)]
    assert s.plan(0.0) is None
    for plan in plans:
        s.commit(outcome(plan), 0.0)
    assert s.reserved_tokens == 0
    assert found(done(s, sequence(1, SYSTEM))) == [32]


def test_nothing_is_kept_of_a_prompt_that_failed() -> None:
    s = scheduler()
    s.add(sequence(0, SYSTEM))
    plan = planned(s)
    s.commit(Outcome(plan.step, [0], [0], [], [], failed={0: "broken"}), 0.0)
    assert found(done(s, sequence(1, SYSTEM))) == [0]
    assert s.reserved_tokens == 0


def test_what_was_planned_of_a_prompt_is_kept_when_it_is_given_up() -> None:
    s = scheduler()
    s.add(sequence(0, SYSTEM))
    planned(s)
    s.abort(0, 0.0)
    assert s.reserved_tokens == 0
    assert found(done(s, sequence(1, SYSTEM))) == [32]


def test_an_abort_leaves_the_blocks_to_those_who_share_them() -> None:
    s = scheduler()
    done(s, sequence(0, SYSTEM, new=9), sequence(9, [1], new=9))
    s.add(sequence(1, SYSTEM, new=9))
    planned(s)
    assert found(planned(s)) == [32]
    s.abort(0, 0.0)
    s.abort(9, 0.0)
    assert s.reserved_tokens == 3 * 16
    s.abort(1, 0.0)
    assert s.reserved_tokens == 0
    assert found(done(s, sequence(2, SYSTEM))) == [32]


def test_least_recently_used_blocks_go_first_and_of_a_prompt_the_last() -> None:
    s = scheduler(blocks=4)
    done(s, sequence(0, [1] * 32))
    done(s, sequence(1, [2] * 32))
    assert found(done(s, sequence(2, [1] * 17))) == [16], "its second block is the one that goes"
    assert found(done(s, sequence(3, [1] * 33))) == [16], "now the end of the second prompt goes"
    assert found(done(s, sequence(4, [2] * 17))) == [16]


def test_what_was_found_is_not_evicted_for_another_of_the_same_step() -> None:
    s = scheduler(blocks=5)
    done(s, sequence(0, [1] * 16))
    done(s, sequence(1, [9] * 48))  # newer, so that the block of the first is the next to go
    s.add(sequence(2, [2] * 32))
    s.add(sequence(3, [1] * 17))
    plan = planned(s)
    assert (plan.ids, found(plan)) == ([2, 3], [0, 16])


def test_found_blocks_that_nobody_owns_count_as_taken() -> None:
    s = scheduler(blocks=3)
    done(s, sequence(0, SYSTEM))
    s.add(sequence(1, SYSTEM, new=9))
    s.add(sequence(2, [7], new=9))
    plan = planned(s)
    assert (plan.ids, found(plan)) == ([1], [32]), "two found and the last free one"


def test_only_computed_tokens_count_in_the_prefill_budget() -> None:
    s = scheduler(max_batch_prefill_tokens=40)
    done(s, sequence(0, SYSTEM))
    for id in range(1, 7):
        s.add(sequence(id, SYSTEM))
    assert planned(s).counts == [8] * 5


def test_who_asks_for_the_scores_of_the_prompt_computes_all_of_it() -> None:
    s = scheduler()
    done(s, sequence(0, SYSTEM))
    assert found(done(s, sequence(1, SYSTEM, prompt_logprobs=True))) == [0]


def test_chunks_take_what_is_left() -> None:
    s = scheduler(prefill_chunk_tokens=16)
    s.add(sequence(0, SYSTEM))
    for _ in range(2):
        s.commit(Outcome(planned(s).step, [0], [0], [], []), 0.0)
    s.commit(outcome(planned(s)), 0.0)
    s.add(sequence(1, SYSTEM))
    s.add(sequence(2, [*SYSTEM, *SYSTEM]))
    plan = planned(s)
    assert (plan.counts, found(plan)) == ([8, 8], [32, 32])


def test_off_means_off() -> None:
    s = Scheduler(BatchingOptions(prefix_caching=False), shards(8))
    done(s, sequence(0, SYSTEM))
    assert found(done(s, sequence(1, SYSTEM))) == [0]
