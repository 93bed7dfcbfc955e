"""Plan, fake outcome, assert."""

from dataclasses import replace
from typing import Any

import pytest

from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import GenerationError, ValidationError
from tgi_server.rpc.fake import FAKE_INFO
from tgi_server.types import (
    CacheKind,
    FinishReason,
    GenerationRequest,
    GroupInfo,
    Outcome,
    Plan,
    SamplingParams,
    ShardInfo,
    StoppingParams,
    TopTokens,
)

EOS = 2


def sequence(id: int, prompt: int = 4, new: int = 4, ignore_eos: bool = False, text: int | None = None) -> Sequence:
    """Of `prompt` times the same token: `text`, or one that others do not have."""
    ids = [id if text is None else text] * prompt
    stopping = StoppingParams(max_new_tokens=new, ignore_eos=ignore_eos)
    return Sequence(id, GenerationRequest(prompt_ids=ids, sampling=SamplingParams(), stopping=stopping))


def scheduler(blocks: int = 64, step: int = 4096, **options: Any) -> Scheduler:
    return Scheduler(BatchingOptions(**options), shards(blocks, step))


def shards(blocks: int = 64, step: int = 4096, **info: Any) -> ShardInfo:
    """With one group of layers that keep everything, if nothing else is said."""
    groups = [GroupInfo(CacheKind.FULL, None, blocks)]
    return replace(FAKE_INFO, **{"groups": groups, "efficient_tokens": step, "eos_token_ids": [EOS], **info})


def outcome(plan: Plan, *tokens: int) -> Outcome:
    """One token for each sequence of `plan`: `tokens`, then 9s."""
    chosen = [*tokens, *[9] * (len(plan.ids) - len(tokens))]
    return Outcome(plan.step, plan.ids, [1] * len(plan.ids), chosen, [-1.0] * len(plan.ids))


def planned(s: Scheduler, now: float = 0.0) -> Plan:
    plan = s.plan(now)
    assert plan is not None
    return plan


def test_a_prompt_is_one_step_and_each_further_token_is_one() -> None:
    s = scheduler()
    one = sequence(0, prompt=20, new=3)
    s.add(one)
    first = planned(s, now=5.0)
    assert (first.ids, first.counts, first.new[0].blocks) == ([0], [20], [[0, 1]])
    assert one.started == 5.0
    second, third = planned(s), planned(s)
    assert second.counts == third.counts == [1] and not second.new
    assert s.plan(0.0) is None, "three tokens are three steps, whatever their values"
    for plan in (first, second, third):
        (progress,) = s.commit(outcome(plan), now=6.0)
    assert progress.finish is FinishReason.LENGTH
    assert one.ended == 6.0


def test_the_last_token_takes_no_cache_position() -> None:
    for new, blocks in ((7, 1), (8, 2)):
        s = scheduler()
        s.add(one := sequence(0, prompt=10, new=new))
        assert (one.needed, len(planned(s).new[0].blocks[0])) == ([blocks], blocks)


def test_plans_run_ahead_and_late_tokens_of_an_ended_sequence_are_dropped() -> None:
    s = scheduler()
    s.add(sequence(0, new=10))
    first, second = planned(s), planned(s)
    (progress,) = s.commit(outcome(first, EOS), 1.0)
    assert progress.finish is FinishReason.EOS_TOKEN
    assert s.commit(outcome(second), 1.0) == []
    s.add(sequence(1))
    assert planned(s).finished == [0]


def test_end_of_sequence_counts_also_as_the_last_token_and_not_when_ignored() -> None:
    s = scheduler()
    s.add(sequence(0, new=1))
    s.add(sequence(1, new=1, ignore_eos=True))
    kept, ignored = s.commit(outcome(planned(s), EOS, EOS), 0.0)
    assert kept.finish is FinishReason.EOS_TOKEN
    assert ignored.finish is FinishReason.LENGTH


def test_a_complete_text_has_not_run_out_of_tokens() -> None:
    s = scheduler()
    s.add(sequence(0, new=2))
    finishes = []
    for _ in range(2):
        told = replace(outcome(planned(s)), complete=[0])
        finishes += [progress.finish for progress in s.commit(told, 0.0)]
    assert finishes == [None, FinishReason.EOS_TOKEN]


def test_a_run_of_tokens_ends_at_the_first_end() -> None:
    s = scheduler()
    s.add(sequence(0, new=8))
    plan = planned(s)
    top = [TopTokens([9], [-1.0])] * 4
    (progress,) = s.commit(Outcome(plan.step, [0], [4], [9, 9, EOS, 9], [-1.0, -2.0, -3.0, -4.0], {0: top}), 0.0)
    assert (progress.tokens, progress.logprobs) == ([9, 9, EOS], [-1.0, -2.0, -3.0])
    assert progress.top_tokens == top[:3]


def test_an_unfinished_prompt_makes_no_progress() -> None:
    s = scheduler()
    s.add(sequence(0))
    plan = planned(s)
    assert s.commit(Outcome(plan.step, [0], [0], [], []), 0.0) == []


def test_blocks_of_a_sequence_go_to_a_new_one_with_the_plan_that_drops_it() -> None:
    s = scheduler(blocks=2, max_waiting_tokens=0)
    s.add(sequence(0, prompt=17, new=2))
    s.add(sequence(1, prompt=17, new=2))
    assert planned(s).ids == [0]
    assert planned(s).ids == [0], "its last token is planned now, so nothing later needs its blocks"
    third = planned(s)
    assert (third.ids, third.finished, third.new[0].blocks) == ([1], [0], [[0, 1]])


def test_an_abort_is_told_in_the_next_plan_and_frees_at_once() -> None:
    s = scheduler()
    for id in range(3):
        s.add(sequence(id, new=10))
    planned(s)
    s.add(sequence(3))
    s.abort(1, now=2.0)
    s.abort(3, now=2.0)
    s.abort(99, now=2.0)
    assert (s.waiting, s.running) == (0, 2)
    plan = planned(s)
    assert (plan.ids, plan.finished) == ([0, 2], [1])


def test_a_failed_sequence_ends_and_the_others_go_on() -> None:
    s = scheduler()
    s.add(sequence(0))
    s.add(sequence(1))
    plan = planned(s)
    failed, fine = s.commit(Outcome(plan.step, [0, 1], [0, 1], [9], [-1.0], failed={0: "out of memory"}), 0.0)
    assert isinstance(failed.failure, GenerationError) and str(failed.failure) == "out of memory" and not failed.tokens
    assert (fine.failure, list(fine.tokens)) == (None, [9])
    assert planned(s).ids == [1]


def test_few_waiting_ones_do_not_pause_the_running() -> None:
    s = scheduler(waiting_served_ratio=1.2, max_waiting_tokens=100)
    for id in range(5):
        s.add(sequence(id, new=50))
    assert len(planned(s).new) == 5
    for id in range(5, 10):
        s.add(sequence(id, new=50))
    assert not any(planned(s).new for _ in range(10)), "6 = floor(5 * 1.2) must wait"
    s.add(sequence(10, new=50))
    plan = planned(s)
    assert plan.ids == [5, 6, 7, 8, 9, 10]
    assert s.joined == "backpressure"
    assert planned(s).ids == list(range(11))
    assert s.joined is None


def test_a_waiting_one_is_let_in_after_max_waiting_tokens() -> None:
    s = scheduler(waiting_served_ratio=100.0, max_waiting_tokens=3)
    s.add(sequence(0, new=50))
    planned(s)
    s.add(sequence(1))
    assert [planned(s).ids for _ in range(4)] == [[0], [0], [0], [1]]
    assert s.joined == "wait_exceeded"


def test_a_decode_step_lies_between_two_prefills() -> None:
    s = scheduler(max_waiting_tokens=0, max_batch_prefill_tokens=4, max_input_length=4)
    for id in range(3):
        s.add(sequence(id, new=50))
    assert [planned(s).ids for _ in range(5)] == [[0], [0], [1], [0, 1], [2]]


def test_prefill_budget_counts_real_tokens_and_nobody_overtakes() -> None:
    s = scheduler(max_batch_prefill_tokens=30, max_waiting_tokens=0)
    for id, prompt in enumerate([15, 15, 30, 1]):
        s.add(sequence(id, prompt=prompt, new=2))
    assert planned(s).ids == [0, 1]
    assert planned(s).ids == [0, 1]
    assert planned(s).ids == [2], "the short one waits behind the long one"


def test_a_sequence_without_free_blocks_keeps_the_later_ones_waiting() -> None:
    s = scheduler(blocks=4, max_waiting_tokens=0)
    s.add(sequence(0, prompt=40, new=9))  # three blocks
    s.add(sequence(1, prompt=20, new=9))  # two
    s.add(sequence(2, prompt=5, new=9))  # one would be free
    assert planned(s).ids == [0]
    assert [planned(s).ids for _ in range(8)] == [[0]] * 8
    assert planned(s).ids == [1, 2]


@pytest.mark.parametrize("waiting_ratio", [0.0, 1.2])
def test_max_batch_size_is_always_enforced(waiting_ratio: float) -> None:
    s = scheduler(max_batch_size=2, max_waiting_tokens=0, waiting_served_ratio=waiting_ratio)
    for id in range(5):
        s.add(sequence(id, new=3))
    started = [planned(s).ids for _ in range(9)]
    assert started == [[0, 1]] * 3 + [[2, 3]] * 3 + [[4]] * 3


def test_what_can_never_run_is_refused() -> None:
    s = scheduler(blocks=4, max_batch_prefill_tokens=40)
    with pytest.raises(ValidationError, match=r"at most 40 tokens.*max_batch_prefill_tokens.*Given: 41"):
        s.add(sequence(0, prompt=41, new=1))
    with pytest.raises(ValidationError, match=r"64 tokens \(`max_batch_total_tokens`\).*40 `inputs`.*26 `max_new"):
        s.add(sequence(0, prompt=40, new=26))
    s.add(sequence(0, prompt=40, new=25))
    assert planned(s).ids == [0]
