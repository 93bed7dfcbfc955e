import pytest
import torch

from tgi_server.shard.batch import BatchState
from tgi_server.types import NewSequence, Plan, SamplingParams

CPU = torch.device("cpu")


def new(id: int, prompt: list[int], *blocks: int) -> NewSequence:
    return NewSequence(id, prompt, list(blocks), SamplingParams())


def test_a_prompt_then_single_tokens() -> None:
    state = BatchState(64, CPU)
    plan = Plan(0, [5], [3], new=[new(5, [10, 11, 12], 7, 2)])
    state.update(plan)
    inputs = state.inputs(plan)
    assert inputs.ids.tolist() == [10, 11, 12]
    assert inputs.positions.tolist() == [0, 1, 2]
    assert inputs.attention.slots.tolist() == [112, 113, 114]
    assert inputs.yielding == [0] and inputs.last_rows.tolist() == [2]
    state.advance(plan, inputs.yielding, [99])
    step = state.inputs(Plan(1, [5], [1]))
    assert step.ids.tolist() == [99] and step.positions.tolist() == [3]
    assert step.attention.context_lengths == [4]


def test_chunks_yield_only_with_the_last() -> None:
    state = BatchState(64, CPU)
    prompt = list(range(20))
    first = Plan(0, [1, 2], [16, 1], new=[new(1, prompt, 3, 4), new(2, [50], 9)])
    state.update(first)
    inputs = state.inputs(first)
    assert inputs.yielding == [1] and inputs.last_rows.tolist() == [16]
    state.advance(first, inputs.yielding, [60])
    second = Plan(1, [1, 2], [4, 1])
    inputs = state.inputs(second)
    assert inputs.ids.tolist() == [16, 17, 18, 19, 60]
    assert inputs.attention.slots.tolist() == [64, 65, 66, 67, 145]
    assert inputs.attention.block_tables.tolist() == [[3, 4], [9, 0]]
    assert inputs.yielding == [0, 1]


def test_cached_positions_are_context_from_the_start() -> None:
    state = BatchState(64, CPU)
    plan = Plan(0, [1], [4], new=[NewSequence(1, list(range(20)), [3, 4], SamplingParams(), cached=16)])
    state.update(plan)
    inputs = state.inputs(plan)
    assert inputs.ids.tolist() == inputs.positions.tolist() == [16, 17, 18, 19]
    assert inputs.attention.slots.tolist() == [64, 65, 66, 67]
    assert inputs.attention.context_lengths == [20] and inputs.yielding == [0]


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
