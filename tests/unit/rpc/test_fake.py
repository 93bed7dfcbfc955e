from contextlib import nullcontext
from dataclasses import replace

import pytest

from tgi_server.errors import GenerationError, UnhealthyError
from tgi_server.rpc.fake import FAKE_INFO, FakeModel, FakeShards
from tgi_server.types import CacheKind, GroupInfo, NewSequence, Plan, SamplingParams


def new(id: int, blocks: list[int], prompt: int = 16, **sampling: int) -> NewSequence:
    return NewSequence(id, [3] * prompt, [blocks], SamplingParams(**sampling), 64)  # type: ignore[arg-type]


def test_tokens_depend_on_prompt_seed_and_position_only() -> None:
    def tokens(id: int, seed: int) -> list[int]:
        model = FakeModel()
        if id:
            model.step(Plan(0, [0], [16], [new(0, [9])]))
        first = model.step(Plan(1 if id else 0, [id], [16], [new(id, [0, 1], seed=seed)]))
        return [*first.tokens, *model.step(Plan(first.step + 1, [id], [1])).tokens]

    assert tokens(0, 1) == tokens(5, 1) != tokens(0, 2)


def test_a_chunk_of_a_prompt_yields_nothing() -> None:
    model = FakeModel()
    assert model.step(Plan(0, [0], [10], [new(0, [0, 1])])).counts == [0]
    assert model.step(Plan(1, [0], [6])).counts == [1]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(2, [0], [1]), "step 2 came instead of 1"),
        (Plan(1, [7], [1]), "sequence 7 is not known"),
        (Plan(1, [0], [1]), "sequence 0 runs out of its blocks"),
        (Plan(1, [0], [2]), "sequence 0 has no 2 positions"),
        (Plan(1, [1], [16], [new(1, [0])]), "block 0 of sequence 1 belongs to sequence 0"),
        (Plan(1, [0], [16], [new(0, [1])]), "sequence 0 is announced twice"),
        (Plan(1, [0], [1], finished=[3]), "sequence 3 is finished before it came"),
        (Plan(1, [0], [1], finished=[0]), "sequence 0 is not known"),
    ],
)
def test_inconsistent_plans_are_caught(plan: Plan, message: str) -> None:
    model = FakeModel()
    model.step(Plan(0, [0], [16], [new(0, [0])]))
    with pytest.raises(AssertionError, match=message):
        model.step(plan)


def test_blocks_of_a_finished_sequence_may_be_used_by_the_same_plan() -> None:
    model = FakeModel()
    model.step(Plan(0, [0], [16], [new(0, [0])]))
    assert model.step(Plan(1, [1], [16], [new(1, [0])], finished=[0])).counts == [1]


def shared(id: int, prompt: list[int], *blocks: int) -> NewSequence:
    return NewSequence(id, prompt, [[*blocks]], SamplingParams(), 64, cached=16)


def test_cached_positions_are_not_computed() -> None:
    model = FakeModel()
    model.step(Plan(0, [0], [16], [new(0, [0])]))
    assert model.step(Plan(1, [1], [4], [shared(1, [3] * 20, 0, 1)])).counts == [1]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(1, [1], [4], [shared(1, [4] * 20, 0, 1)]), "block 0 does not hold the start of 1"),
        (Plan(1, [1], [4], [shared(1, [3] * 20, 5, 1)]), "block 5 does not end at 16"),
        (Plan(1, [1], [1], [shared(1, [3] * 16, 0)]), "16 positions are cached"),
        (Plan(1, [1], [20], [shared(1, [3] * 20, 0, 1)]), "sequence 1 has no 20 positions"),
    ],
)
def test_wrong_cached_positions_are_caught(plan: Plan, message: str) -> None:
    model = FakeModel()
    model.step(Plan(0, [0], [16], [new(0, [0])]))
    with pytest.raises(AssertionError, match=message):
        model.step(plan)


def test_what_is_computed_in_the_same_step_is_shared() -> None:
    model = FakeModel()
    assert model.step(Plan(0, [0, 1], [16, 4], [new(0, [0]), shared(1, [3] * 20, 0, 1)])).counts == [1, 1]
    assert not model.misled


def test_a_failed_step_leaves_nothing_to_share() -> None:
    for plans in ([[0], [1]], [[0, 1]]):
        model = FakeModel()
        model.failures[0] = "broken"
        parts = {0: (16, new(0, [0])), 1: (4, shared(1, [3] * 20, 0, 1))}
        for step, ids in enumerate(plans):
            model.step(Plan(step, ids, [parts[id][0] for id in ids], [parts[id][1] for id in ids]))
        assert model.misled == {1}


async def test_killed_shards_raise_everywhere() -> None:
    shards = FakeShards()
    await shards.health()
    shards.kill("shard 2 died")
    with pytest.raises(GenerationError, match="shard 2 died"):
        await shards.receive()
    with pytest.raises(GenerationError, match="shard 2 died"):
        await shards.send(Plan(0, [0], [16], [new(0, [0])]))
    with pytest.raises(UnhealthyError, match="shard 2 died"):
        await shards.health()


def fake(*groups: GroupInfo, draft: int = 0) -> FakeModel:
    return FakeModel(replace(FAKE_INFO, groups=list(groups), draft_width=draft))


FULL, WINDOW = GroupInfo(CacheKind.FULL, None, 99), GroupInfo(CacheKind.WINDOW, 17, 99)


def text(model: FakeModel, draft: int, tokens: int) -> tuple[list[int], int]:
    """What a sequence generates, and in how many steps."""
    plan = Plan(0, [0], [20], [NewSequence(0, [3] * 20, [list(range(9))], SamplingParams(top_n_tokens=2), 20 + tokens)])
    found, steps = list[int](), 0
    while len(found) < tokens:
        outcome = model.step(plan)
        assert len(outcome.tokens) == len(outcome.logprobs) == len(outcome.top_tokens[0]) == outcome.counts[0]
        found += outcome.tokens
        steps += 1
        plan = Plan(steps, [0], [1], draft=draft)
    assert model.step(plan).counts == [0], "it has all its tokens"
    return found, steps


def test_several_tokens_a_step_are_the_same_tokens() -> None:
    alone, steps = text(fake(FULL), 0, 40)
    for draft in (1, 3):
        together, fewer = text(fake(FULL, draft=draft), draft, 40)
        assert together == alone and fewer < steps == 40


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([0, 1, 0, 1, 0, 1, 0], None),
        ([0, 1, 2, 3, 4, 5, 6], None),
        ([0, 1, 0, 0, 1, 0, 1], "has overwritten its block 2"),
        ([0, 1, 1, 0, 1, 0, 1], "has overwritten its block 1"),
        ([0, 0, 1, 0, 1, 0, 1], "has overwritten its block 0"),
        ([0, 1, 0, 1, 0], "runs out of its blocks"),
    ],
)
def test_rings_that_are_too_small_are_caught(table: list[int], message: str | None) -> None:
    model = fake(WINDOW)
    first = Plan(0, [0], [20], [NewSequence(0, [3] * 20, [table], SamplingParams(), 120)])
    plans = [first, *(Plan(step, [0], [1]) for step in range(1, 92))]
    with nullcontext() if message is None else pytest.raises(AssertionError, match=message):
        for plan in plans:
            model.step(plan)


def test_blocks_before_a_window_may_belong_to_others_after_the_prompt() -> None:
    def sequence(id: int, *table: int) -> NewSequence:
        return NewSequence(id, [3] * 48, [list(table)], SamplingParams(), 60)

    model = fake(WINDOW)
    model.step(Plan(0, [0], [48], [sequence(0, 0, 1, 2, 1)]))
    with pytest.raises(AssertionError, match="block 1 of sequence 1 belongs to sequence 0"):
        model.step(Plan(1, [1], [48], [sequence(1, 3, 4, 1, 4)]))
    model = fake(WINDOW)
    model.step(Plan(0, [0], [48], [sequence(0, 0, 1, 2, 1)]))
    assert model.step(Plan(1, [1], [48], [sequence(1, 3, 4, 0, 4)])).counts == [1]


def test_groups_and_guesses_must_be_those_of_the_model() -> None:
    two = [NewSequence(0, [3], [[0], [1]], SamplingParams(), 9)]
    with pytest.raises(AssertionError, match="blocks of 2 groups"):
        fake(FULL).step(Plan(0, [0], [1], two))
    with pytest.raises(AssertionError, match="2 tokens cannot be guessed"):
        fake(FULL, WINDOW, draft=1).step(Plan(0, [0], [1], two, draft=2))
    with pytest.raises(AssertionError, match="sequence 0 has 2 states"):
        slots = NewSequence(0, [3], [[0, 1]], SamplingParams(), 9)
        fake(GroupInfo(CacheKind.STATE, None, 4)).step(Plan(0, [0], [1], [slots]))
    with pytest.raises(AssertionError, match="there is no block 99"):
        fake(FULL).step(Plan(0, [0], [1], [NewSequence(0, [3], [[99]], SamplingParams(), 9)]))
