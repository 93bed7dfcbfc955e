import pytest

from tgi_server.errors import GenerationError, UnhealthyError
from tgi_server.rpc.fake import FakeModel, FakeShards
from tgi_server.types import NewSequence, Plan, SamplingParams


def new(id: int, blocks: list[int], prompt: int = 16, **sampling: int) -> NewSequence:
    return NewSequence(id, [3] * prompt, blocks, SamplingParams(**sampling))  # type: ignore[arg-type]


def test_tokens_depend_on_prompt_seed_and_position_only() -> None:
    def tokens(id: int, seed: int) -> list[int]:
        model = FakeModel(256)
        if id:
            model.step(Plan(0, [0], [16], [new(0, [9])]))
        first = model.step(Plan(1 if id else 0, [id], [16], [new(id, [0, 1], seed=seed)]))
        return [*first.tokens, *model.step(Plan(first.step + 1, [id], [1])).tokens]

    assert tokens(0, 1) == tokens(5, 1) != tokens(0, 2)


def test_a_chunk_of_a_prompt_yields_nothing() -> None:
    model = FakeModel(256)
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
    model = FakeModel(256)
    model.step(Plan(0, [0], [16], [new(0, [0])]))
    with pytest.raises(AssertionError, match=message):
        model.step(plan)


def test_blocks_of_a_finished_sequence_may_be_used_by_the_same_plan() -> None:
    model = FakeModel(256)
    model.step(Plan(0, [0], [16], [new(0, [0])]))
    assert model.step(Plan(1, [1], [16], [new(1, [0])], finished=[0])).counts == [1]


def shared(id: int, prompt: list[int], *blocks: int) -> NewSequence:
    return NewSequence(id, prompt, blocks, SamplingParams(), cached=16)


def test_cached_positions_are_not_computed() -> None:
    model = FakeModel(256)
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
    model = FakeModel(256)
    model.step(Plan(0, [0], [16], [new(0, [0])]))
    with pytest.raises(AssertionError, match=message):
        model.step(plan)


def test_a_failed_step_leaves_nothing_to_share() -> None:
    model = FakeModel(256)
    model.failures[0] = "broken"
    model.step(Plan(0, [0], [16], [new(0, [0])]))
    with pytest.raises(AssertionError, match="block 0 does not end at 16"):
        model.step(Plan(1, [1], [4], [shared(1, [3] * 20, 0, 1)]))


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
