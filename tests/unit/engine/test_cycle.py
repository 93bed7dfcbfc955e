"""The engine's cycle without a loop: what is in flight, and in which order things happen."""

from __future__ import annotations

import pytest

from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.engine.cycle import Cycle
from tgi_server.errors import ValidationError
from tgi_server.rpc.fake import FAKE_INFO, FakeModel
from tgi_server.types import GenerationRequest, SamplingParams, StoppingParams


def sequence(id: int, prompt: int = 5, new: int = 4) -> Sequence:
    stopping = StoppingParams(max_new_tokens=new, ignore_eos=True)
    return Sequence(id, GenerationRequest(prompt_ids=[id + 1] * prompt, sampling=SamplingParams(), stopping=stopping))


def test_two_plans_are_made_ahead_and_no_third() -> None:
    cycle = Cycle(BatchingOptions(), FAKE_INFO)
    cycle.add(sequence(0), 1.5)
    plans = list(cycle.plans(2.0))
    assert [plan.counts for plan in plans] == [[5], [1]]
    assert cycle.full
    assert cycle.plan(2.5) is None
    model = FakeModel()
    (progress,) = cycle.commit(model.step(plans[0]), 3.0)
    assert (progress.sequence.arrived, progress.sequence.started) == (1.5, 2.0)
    assert not cycle.full
    assert [plan.step for plan in cycle.plans(3.0)] == [2]


def test_all_is_over_when_the_last_outcome_is_there() -> None:
    cycle, model = Cycle(BatchingOptions(), FAKE_INFO), FakeModel()
    cycle.add(sequence(0, new=3), 0.0)
    sent, got = list(cycle.plans(0.0)), 0
    while sent:
        got += sum(len(progress.tokens) for progress in cycle.commit(model.step(sent.pop(0)), 1.0))
        sent += cycle.plans(1.0)
    assert got == 3
    assert cycle.in_flight == 0
    assert not cycle.full


def test_what_is_aborted_frees_its_place_with_the_next_plan() -> None:
    cycle, model = Cycle(BatchingOptions(max_batch_size=1), FAKE_INFO), FakeModel()
    for id in (0, 1):
        cycle.add(sequence(id), 0.0)
    first, second = cycle.plans(0.0)
    cycle.abort(0, 0.5)
    assert cycle.commit(model.step(first), 1.0) == []
    third = cycle.plan(1.0)
    assert third is not None
    assert (third.ids, third.finished) == ([1], [0])
    assert second.ids == [0]


def test_what_can_never_run_is_refused() -> None:
    cycle = Cycle(BatchingOptions(max_batch_prefill_tokens=8), FAKE_INFO)
    with pytest.raises(ValidationError, match="max_batch_prefill_tokens"):
        cycle.add(sequence(0, prompt=9), 0.0)
