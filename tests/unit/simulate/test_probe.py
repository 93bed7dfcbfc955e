from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.simulate.synthetic import INFO, SyntheticShards
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ModelError
from tgi_server.simulate import grid
from tgi_server.simulate.costs import Shape
from tgi_server.simulate.findings import Findings
from tgi_server.simulate.fit import residuals
from tgi_server.simulate.probe import Prober
from tgi_server.types import CacheKind, GroupInfo, ShardInfo

OPTIONS = BatchingOptions(max_concurrent_requests=24)
CHUNKED = BatchingOptions(max_concurrent_requests=24, prefill_chunk_tokens=128)
SMALL = BatchingOptions(max_concurrent_requests=1, max_input_length=8, max_total_tokens=16)


def true_seconds(shape: Shape) -> float:
    """Flat at first, then in proportion, as memory and then arithmetic is what takes time."""
    of_layers = max(3e-6, 2e-7 * shape.tokens)
    return of_layers + 1e-10 * shape.pairs + 4e-10 * shape.context + 5e-8 * (shape.rows + shape.ends)


async def findings(shards: SyntheticShards, options: BatchingOptions = OPTIONS) -> Findings:
    return await Prober(shards, options, await shards.connect()).measure(0.05, lambda *_: None)


@pytest.mark.parametrize("options", [OPTIONS, CHUNKED])
async def test_costs_that_are_known_are_found_again(options: BatchingOptions) -> None:
    shards = SyntheticShards(true_seconds)
    found = await findings(shards, options)
    assert max(map(abs, residuals(found.costs, found.samples))) < 0.02
    assert found.costs.pair == pytest.approx(1e-10, rel=0.1)
    assert found.costs.position == pytest.approx(4e-10, rel=0.1)
    assert found.costs.between == pytest.approx(4e-5)
    for shape in (Shape(0, 0, 5, 1200), Shape(100, 5050, 0, 0, 1), Shape(90, 20_000, 7, 2_000, 1)):
        assert found.costs.seconds(shape) == pytest.approx(true_seconds(shape), rel=0.1)


@pytest.mark.parametrize("options", [OPTIONS, CHUNKED, SMALL])
async def test_nothing_is_left_at_the_shards(options: BatchingOptions) -> None:
    shards = SyntheticShards(true_seconds)
    await findings(shards, options)
    assert shards.shapes and not shards.known


@pytest.mark.parametrize(
    "info",
    [
        replace(INFO, groups=[GroupInfo(CacheKind.FULL, None, 64), GroupInfo(CacheKind.WINDOW, 128, 64)]),
        replace(INFO, groups=[GroupInfo(CacheKind.STATE, None, 8)]),
        replace(INFO, groups=[GroupInfo(CacheKind.FULL, None, 3)]),
    ],
    ids=["window", "state", "tiny"],
)
async def test_other_caches(info: ShardInfo) -> None:
    shards = SyntheticShards(true_seconds, info)
    found = await findings(shards)
    assert not shards.known
    assert max(map(abs, residuals(found.costs, found.samples))) < 0.02


async def test_prompts_that_would_take_most_of_the_time_are_left_out() -> None:
    shards = SyntheticShards(lambda shape: 9e-6 * shape.tokens)
    found = await findings(shards)
    assert max(sample.shape.prompt_tokens for sample in found.samples) == 512
    assert found.costs.seconds(Shape(2000, 0, 0, 0)) == pytest.approx(0.018, rel=0.1)


async def test_a_step_that_fails_ends_the_measurement() -> None:
    shards = SyntheticShards(true_seconds)
    shards.failing = "out of memory"
    with pytest.raises(ModelError, match="out of memory"):
        await findings(shards)
    assert not shards.known


async def test_findings_survive_json() -> None:
    found = await findings(SyntheticShards(true_seconds))
    again = Findings.from_json(found.to_json())
    assert again == found
    assert again.costs.seconds(Shape(10, 55, 3, 60, 1)) == found.costs.seconds(Shape(10, 55, 3, 60, 1))
    with pytest.raises(ModelError, match="cannot be read"):
        Findings.from_json('{"info": 3}')


def test_steps_stay_within_what_the_options_allow() -> None:
    options = BatchingOptions(max_concurrent_requests=100, max_batch_size=12, prefill_chunk_tokens=64)
    shapes = [scene.shape(0) for scene in grid.scenes(options, INFO)]
    assert max(shape.rows for shape in shapes) == 12
    assert max(shape.prompt_tokens for shape in shapes if shape.rows) == 64
    assert any(shape.rows and shape.prompt_tokens for shape in shapes)
    pausing = [scene.shape(0) for scene in grid.scenes(replace(options, prefill_chunk_tokens=None), INFO)]
    assert any(shape.rows and shape.prompt_tokens for shape in pausing), "what is found holds for chunks, too"
    assert {shape for shape in shapes if not shape.rows} == {shape for shape in pausing if not shape.rows}
