import numpy as np
import pytest
import torch

from tgi_server.cache.kinds import CacheGroup
from tgi_server.shard.batch import BatchState
from tgi_server.types import CacheKind, NewSequence, Plan, SamplingParams

CPU = torch.device("cpu")


def new(id: int, prompt: list[int], *blocks: int) -> NewSequence:
    return NewSequence(id, prompt, [list(blocks)], SamplingParams(), 64)


def test_a_prompt_then_single_tokens() -> None:
    state = BatchState(64, CPU)
    plan = Plan(0, [5], [3], new=[new(5, [10, 11, 12], 7, 2)])
    state.update(plan)
    inputs = state.inputs(plan)
    assert inputs.ids.tolist() == [10, 11, 12]
    assert inputs.positions.tolist() == [0, 1, 2]
    assert inputs.batches[0].slots.tolist() == [112, 113, 114]
    assert inputs.yielding == [0] and inputs.score_rows.tolist() == [2]
    state.advance(plan, inputs.yielding, [[99]])
    step = state.inputs(Plan(1, [5], [1]))
    assert step.ids.tolist() == [99] and step.positions.tolist() == [3]
    assert step.batches[0].context_lengths == [4]


def test_chunks_yield_only_with_the_last() -> None:
    state = BatchState(64, CPU)
    prompt = list(range(20))
    first = Plan(0, [1, 2], [16, 1], new=[new(1, prompt, 3, 4), new(2, [50], 9)])
    state.update(first)
    inputs = state.inputs(first)
    assert inputs.yielding == [1] and inputs.score_rows.tolist() == [16]
    state.advance(first, inputs.yielding, [[60]])
    second = Plan(1, [1, 2], [4, 1])
    inputs = state.inputs(second)
    assert inputs.ids.tolist() == [16, 17, 18, 19, 60]
    assert inputs.batches[0].slots.tolist() == [64, 65, 66, 67, 145]
    assert inputs.batches[0].block_tables.tolist() == [[3, 4], [9, 0]]
    assert inputs.yielding == [0, 1]


def test_cached_positions_are_context_from_the_start() -> None:
    state = BatchState(64, CPU)
    plan = Plan(0, [1], [4], new=[NewSequence(1, list(range(20)), [[3, 4]], SamplingParams(), 64, cached=16)])
    state.update(plan)
    inputs = state.inputs(plan)
    assert inputs.ids.tolist() == inputs.positions.tolist() == [16, 17, 18, 19]
    assert inputs.batches[0].slots.tolist() == [64, 65, 66, 67]
    assert inputs.batches[0].context_lengths == [20] and inputs.yielding == [0]


def test_rows_are_reused_and_grow() -> None:
    state = BatchState(32, CPU, rows=2)
    plan = Plan(0, list(range(5)), [1] * 5, new=[new(i, [i + 100], i) for i in range(5)])
    state.update(plan)
    assert state.inputs(plan).ids.tolist() == [100, 101, 102, 103, 104]
    state.update(Plan(1, [], [], finished=[0, 1, 2, 77]))
    assert len(state) == 2
    again = Plan(2, [9, 4], [1, 1], new=[new(9, [7], 0)])
    state.update(again)
    assert state.inputs(again).ids.tolist() == [7, 104]


def test_an_unknown_sequence_is_an_error() -> None:
    with pytest.raises(KeyError):
        BatchState(32, CPU).inputs(Plan(0, [3], [1]))


FULL, WINDOW = CacheGroup(CacheKind.FULL), CacheGroup(CacheKind.WINDOW, 4)
STATE, ENCODER = CacheGroup(CacheKind.STATE), CacheGroup(CacheKind.ENCODER)


def decoding(*lengths: int, groups: tuple[CacheGroup, ...] = (FULL,), limit: int = 64) -> BatchState:
    """Sequences whose prompts are computed, and that have got their first token, 100 + their number."""
    state = BatchState(64, CPU, groups)
    kinds = {CacheKind.STATE: 1, CacheKind.ENCODER: 2}
    plan = Plan(0, list(range(len(lengths))), list(lengths))
    for i, length in enumerate(lengths):
        tables = [[100 * g + 10 * i + k for k in range(kinds.get(group.kind, 4))] for g, group in enumerate(groups)]
        plan.new.append(NewSequence(i, list(range(length)), tables, SamplingParams(), limit))
    state.update(plan)
    inputs = state.inputs(plan)
    state.advance(plan, inputs.yielding, [[100 + i] for i in inputs.yielding])
    return state


def test_groups_share_all_but_the_blocks() -> None:
    state = decoding(3, 17, groups=(FULL, WINDOW, STATE, ENCODER))
    plan = Plan(1, [0, 1, 2], [1, 1, 2], [NewSequence(2, [7, 8], [[20], [120], [220], [320]], SamplingParams(), 64)])
    state.update(plan)
    full, window, slot, encoder = state.inputs(plan).batches
    for batch in (full, window, slot, encoder):
        assert (batch.query_starts, batch.query_lengths) == ([0, 1, 2, 4], [1, 1, 2])
        assert batch.starts.tolist() == batch.query_starts and batch.contexts.tolist() == batch.context_lengths
    assert full.context_lengths == window.context_lengths == slot.context_lengths == [4, 18, 2]
    assert full.block_tables.tolist() == [[0, 1], [10, 11], [20, 0]]
    assert full.slots.tolist() == [3, 177, 320, 321]
    assert window.block_tables.tolist() == [[100, 101], [110, 111], [120, 0]]
    assert window.slots.tolist() == [1603, 1777, 1920, 1921]
    assert (slot.block_tables.tolist(), slot.slots.tolist()) == ([[200], [210], [220]], [200, 210, 220, 220])
    assert encoder.context_lengths == [3, 17, 2], "the prompts"
    assert encoder.block_tables.tolist() == [[300, 301], [310, 311], [320, 0]]
    assert encoder.slots.tolist()[2:] == [5120, 5121]


def test_guessed_tokens_follow_the_certain_one_and_are_scored_with_it() -> None:
    state = decoding(3, 5, 2)
    plan = Plan(1, [2, 0, 1], [1, 1, 1], draft=4)
    inputs = state.inputs(plan, {0: [50, 51], 1: [60]})
    assert inputs.ids.tolist() == [102, 100, 50, 51, 101, 60]
    assert inputs.positions.tolist() == [2, 3, 4, 5, 5, 6]
    (batch,) = inputs.batches
    assert (batch.query_lengths, batch.context_lengths) == ([1] * 6, [3, 4, 5, 6, 6, 7]), "to the model they all decode"
    assert batch.block_tables[:, 0].tolist() == [20, 0, 0, 0, 10, 10]
    assert (inputs.yielding, inputs.scored, inputs.score_rows.tolist()) == ([0, 1, 2], [1, 3, 2], [0, 1, 2, 3, 4, 5])
    assert (inputs.starts.tolist(), inputs.deciding) == ([0, 1, 4], [0, 1, 4])
    assert state.known(0).tolist() == [0, 1, 2, 100] and state.known(0, 2).tolist() == [0, 1, 2, 100, 50, 51]
    state.advance(plan, inputs.yielding, [[70], [50, 51, 71], [72]])
    assert [state.known(id).tolist()[-3:] for id in range(3)] == [[50, 51, 71], [4, 101, 72], [1, 102, 70]]
    assert [state.computed(id) for id in range(3)] == [6, 6, 3]
    inputs = state.inputs(Plan(2, [0, 1, 2], [1, 1, 1]))
    assert (inputs.ids.tolist(), inputs.positions.tolist()) == ([71, 72, 70], [6, 6, 3])
    assert inputs.scored == [1, 1, 1]


def test_prompts_in_the_same_step_are_scored_once() -> None:
    state = decoding(3)
    plan = Plan(1, [0, 7, 8], [1, 4, 2], [new(id, [1, 2, 3, 4], id) for id in (7, 8)], draft=2)
    state.update(plan)
    inputs = state.inputs(plan, {0: [50, 51]})
    assert (inputs.yielding, inputs.scored, inputs.score_rows.tolist()) == ([0, 1], [3, 1], [0, 1, 2, 6])
    assert (inputs.starts.tolist(), inputs.deciding) == ([0, 3, 7], [0, 6])
    assert inputs.batches[0].query_lengths == [1, 1, 1, 4, 2]


def test_lengths_are_those_that_a_position_will_have_seen() -> None:
    state = decoding(3, limit=9)
    plan = Plan(1, [0, 7], [1, 2], [NewSequence(7, [1, 2, 3, 4], [[3]], SamplingParams(), 30)])
    state.update(plan)
    inputs = state.inputs(plan, {0: [50]})
    assert inputs.lengths.tolist() == [4, 5, 4, 4] and inputs.limits.tolist() == [9, 9, 30, 30]
    assert inputs.lengths.dtype == inputs.limits.dtype == np.int64
    inputs = state.inputs(Plan(2, [0], [1]))
    assert inputs.lengths.tolist() == [4] and inputs.limits.tolist() == [9]


def test_room_for_guesses_ends_before_the_last_token() -> None:
    state = decoding(3, limit=6)
    state.update(Plan(1, [], [], new=[new(7, [1, 2, 3], 7)]))
    assert state.rooms([0, 7]) == [1, 0], "a prompt that is not computed does not decode"
    plan = Plan(1, [0], [1], draft=1)
    inputs = state.inputs(plan, {0: [50]})
    state.advance(plan, inputs.yielding, [[50, 51]])
    assert state.rooms([0]) == [0]


def test_a_sequence_with_all_its_tokens_is_computed_again_and_gets_none() -> None:
    state = decoding(3, 3, limit=5)
    plan = Plan(1, [0, 1], [1, 1])
    for _ in range(3):
        inputs = state.inputs(plan)
        state.advance(plan, inputs.yielding, [[9] for _ in inputs.yielding])
        assert inputs.positions.tolist() in ([3, 3], [4, 4])
    assert (inputs.yielding, inputs.scored, inputs.score_rows.tolist()) == ([], [], [])
    assert state.known(0).tolist() == [0, 1, 2, 100, 9] and state.computed(0) == 4


def test_prompts_of_an_encoder_are_beside_the_text() -> None:
    state = BatchState(64, CPU, (FULL, ENCODER), start=7)
    prompts = [[11] * 3, list(range(20, 38))]
    blocks = [[[1], [5]], [[2], [6, 3]]]
    tables = [NewSequence(i, prompts[i], blocks[i], SamplingParams(), len(prompts[i]) + 4) for i in range(2)]
    plan = Plan(0, [0, 1], [3, 18], new=tables)
    state.update(plan)
    inputs = state.inputs(plan)
    assert (inputs.ids.tolist(), inputs.positions.tolist(), inputs.yielding) == ([7, 7], [0, 0], [0, 1])
    assert inputs.limits.tolist() == [5, 5] and [state.prompt_length(id) for id in (0, 1)] == [1, 1]
    own, cross = inputs.batches
    assert own.slots.tolist() == [16, 32] and own.context_lengths == [1, 1]
    assert cross.context_lengths == [3, 18] and cross.block_tables.tolist() == [[5, 0], [6, 3]]
    sources = inputs.sources
    assert sources is not None and sources.ids.tolist() == prompts[0] + prompts[1]
    assert sources.positions.tolist() == [*range(3), *range(18)]
    assert sources.batch.query_lengths == sources.batch.context_lengths == [3, 18]
    assert sources.batch.slots.tolist() == [80, 81, 82, *range(96, 112), 48, 49]
    state.advance(plan, inputs.yielding, [[8], [9]])
    more = Plan(1, [0, 2, 1], [1, 2, 1], new=[NewSequence(2, [4, 5], [[4], [7]], SamplingParams(), 8)])
    state.update(more)
    inputs = state.inputs(more)
    assert (inputs.ids.tolist(), inputs.positions.tolist()) == ([8, 7, 9], [1, 0, 1])
    assert inputs.sources is not None and inputs.sources.ids.tolist() == [4, 5]
    state.advance(more, inputs.yielding, [[1], [2], [3]])
    inputs = state.inputs(Plan(2, [0], [1]))
    assert inputs.sources is None and state.known(0).tolist() == [7, 8, 1]
