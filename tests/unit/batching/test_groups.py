"""Several groups of layers, whose caches are counted apart: plan, fake outcome, assert."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.batching.test_scheduler import outcome, planned, sequence, shards
from tgi_server.batching.scheduler import Scheduler
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ValidationError
from tgi_server.types import CacheKind, GroupInfo

FULL, WINDOW = CacheKind.FULL, CacheKind.WINDOW


def scheduler(
    *groups: tuple[CacheKind, int | None, int], info: dict[str, Any] | None = None, **options: Any
) -> Scheduler:
    told = shards(groups=[GroupInfo(*group) for group in groups], **(info or {}))
    return Scheduler(BatchingOptions(max_waiting_tokens=0, **options), told)


def test_every_group_has_a_table_of_its_own() -> None:
    s = scheduler((FULL, None, 64), (WINDOW, 17, 64), (CacheKind.STATE, None, 4), (CacheKind.ENCODER, None, 9))
    s.add(sequence(0, prompt=20, new=60))
    (new,) = planned(s).new
    assert new.blocks == [[0, 1, 2, 3, 4], [0, 1, 0, 1, 0], [0], [0, 1]], "16 before a token lie in two blocks with it"
    assert new.max_length == 80


def test_what_only_the_prompt_sees_is_free_for_the_next_plan() -> None:
    s = scheduler((WINDOW, 16, 8))
    s.add(sequence(0, prompt=112, new=50))
    s.add(sequence(1, prompt=96, new=10))
    first = planned(s)
    assert (first.ids, first.new[0].blocks[0]) == ([0], [0, 1, 2, 3, 4, 5, 6, 0, 6, 0, 6])
    assert s.reserved_tokens == 2 * 16
    second = planned(s)
    assert second.ids == [0], "a decode step lies between"
    third = planned(s)
    assert (third.ids, third.new[0].blocks[0]) == ([1], [1, 2, 3, 4, 5, 7, 1])


def test_chunks_of_a_prompt_go_round_in_a_ring() -> None:
    s = scheduler((WINDOW, 16, 4), prefill_chunk_tokens=16)
    s.add(sequence(0, prompt=112, new=5))
    new = planned(s).new[0]
    assert new.blocks == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert [planned(s).counts for _ in range(6)] == [[16]] * 6
    assert s.reserved_tokens == 2 * 16
    s.add(sequence(1, prompt=20, new=5))
    assert planned(s).ids == [0, 1], "which a prompt of two blocks fits beside"


@pytest.mark.parametrize(
    ("groups", "fits"),
    [
        ([(FULL, None, 6), (WINDOW, 16, 6)], 3),
        ([(FULL, None, 6), (WINDOW, 16, 4)], 2),
        ([(FULL, None, 3), (WINDOW, 16, 6)], 1),
        ([(FULL, None, 6), (CacheKind.STATE, None, 1)], 1),
    ],
)
def test_the_scarcest_group_limits(groups: list[tuple[CacheKind, int | None, int]], fits: int) -> None:
    for options in ({}, {"prefill_chunk_tokens": 64}):
        s = scheduler(*groups, **options)  # type: ignore[arg-type]
        for id in range(4):
            s.add(sequence(id, prompt=10, new=20))
        assert len(planned(s).ids) == fits


def test_what_no_group_could_hold_is_refused() -> None:
    s = scheduler((FULL, None, 9), (WINDOW, 20, 4))
    s.add(sequence(0, prompt=64, new=60))
    with pytest.raises(ValidationError, match=r"64 tokens \(`max_batch_total_tokens`\)"):
        s.add(sequence(1, prompt=65, new=1))
    with pytest.raises(ValidationError, match=r"144 tokens \(`max_batch_total_tokens`\)"):
        s.add(sequence(1, prompt=64, new=82))


def test_with_prefixes_windows_keep_all_and_every_group_has_the_same_blocks() -> None:
    s = scheduler((FULL, None, 16), (WINDOW, 16, 12), prefix_caching=True)
    s.add(sequence(0, prompt=40, new=8, text=7))
    first = planned(s)
    assert first.new[0].blocks == [[0, 1, 2], [0, 1, 2]]
    s.abort(0, 0.0)
    s.add(sequence(1, prompt=41, new=8, text=7))
    assert planned(s).new[0].cached == 32
    s.abort(1, 0.0)
    s.add(sequence(2, prompt=4, new=170))  # takes 11 of the 12 blocks that the windows have
    planned(s)
    s.abort(2, 0.0)
    s.add(sequence(3, prompt=41, new=8, text=7))
    assert planned(s).new[0].cached == 16
    s.abort(3, 0.0)
    assert s.reserved_tokens == 0


@pytest.mark.parametrize(("total", "shares"), [(16, True), (17, False)])
def test_by_default_prefixes_are_shared_where_no_window_is_left(total: int, shares: bool) -> None:
    s = scheduler((FULL, None, 16), (WINDOW, 16, 16), max_total_tokens=total)
    assert (s.unshared is None) is shares


@pytest.mark.parametrize("wanted", [None, True])
@pytest.mark.parametrize("cause", ["state", "encoder", "rope"])
def test_where_prefixes_mean_nothing_caching_is_off(cause: str, wanted: bool | None) -> None:
    groups = [(FULL, None, 16)] + ([(CacheKind(cause), None, 16)] if cause != "rope" else [])
    s = scheduler(*groups, info={"prefix_cacheable": cause != "rope"}, prefix_caching=wanted)
    assert s.unshared
    for id in range(2):
        s.add(sequence(id, prompt=40, new=1, text=7))
        plan = planned(s)
        s.commit(outcome(plan), 0.0)
        assert plan.new[0].cached == 0


def test_an_encoder_reads_prompts_whole_and_its_decoder_holds_what_it_writes() -> None:
    s = scheduler(
        (FULL, None, 8), (CacheKind.ENCODER, None, 16), info={"start_token_id": 3}, max_batch_prefill_tokens=200,
        prefill_chunk_tokens=16,
    )  # fmt: skip
    s.add(sequence(0, prompt=100, new=20))
    s.add(sequence(1, prompt=33, new=16))
    first = planned(s)
    assert (first.ids, first.counts) == ([0, 1], [100, 33])
    assert first.new[0].blocks == [[0, 1], [0, 1, 2, 3, 4, 5, 6]], "20 positions: the start and 19 generated tokens"
    assert first.new[1].blocks == [[2], [7, 8, 9]] and first.new[1].max_length == 49
    assert planned(s).counts == [1, 1]
    with pytest.raises(ValidationError, match=r"128 tokens"):
        s.add(sequence(2, prompt=1, new=129))
    s.add(sequence(3, prompt=1, new=128))
    s.add(sequence(4, prompt=112, new=1))
    assert planned(s).counts == [1, 1], "six blocks are left of the encoder's, seven are needed"


def test_states_are_slots_and_prompts_come_in_chunks() -> None:
    s = scheduler((CacheKind.STATE, None, 2), prefill_chunk_tokens=16)
    for id in range(3):
        s.add(sequence(id, prompt=8, new=900))
    plan = planned(s)
    assert [new.blocks for new in plan.new] == [[[0]], [[1]]]
    s.abort(0, 0.0)
    plan = planned(s)
    assert plan.finished == [0] and plan.new[0].blocks == [[0]] and plan.ids == [1, 2]
