"""Recorded steps against plain ones: batches that grow, shrink and mix, and rows that only pad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models import Steps, needs, write_llama
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ConfigError
from tgi_server.kernels.native import calls
from tgi_server.shard.graphs import Forward, GraphForward, NativeForward, best_forward

LONGEST = 64
OPTIONS = BatchingOptions(max_total_tokens=LONGEST)
PLANS = [
    ([0], [5]),
    ([0], [1]),
    ([1, 2], [20, 3]),
    ([0, 1, 2], [1, 1, 1]),
    ([0, 2], [1, 1]),
    ([2, 0], [1, 4]),
    ([1], [1]),
]
PROMPTS = [[7, 3, 9, 1, 2] + [4] * 30, list(range(20)) + [5] * 20, [8, 8, 8] + [6] * 30]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    write_llama(path)
    return path


def machine(directory: Path, plain: bool) -> Steps:
    """A model with a cache and three sequences."""
    return Steps(directory, PROMPTS, needs(plain), LONGEST)


def compare(plain: Steps, other: Steps) -> None:
    for ids, counts in PLANS:
        assert torch.allclose(other.hidden(ids, counts), plain.hidden(ids, counts), atol=1e-4)


def test_recorded_steps_equal_plain_ones(directory: Path) -> None:
    plain, recorded = machine(directory, True), machine(directory, False)
    recorded.run = best_forward(recorded.model, recorded.caches, recorded.spec, OPTIONS)
    assert isinstance(recorded.run, NativeForward)
    compare(plain, recorded)


class Replayed:
    """A recording in the place of a CUDA graph, which does the same on the same memory."""

    def __init__(self, recording: calls.Recording) -> None:
        self.replay = recording.run


def capture(run: Callable[[], Tensor]) -> tuple[Replayed, Tensor]:
    with calls.record() as recording:
        result = run()
    return Replayed(recording), result


@torch.inference_mode()
def test_padded_batches_equal_plain_ones(directory: Path) -> None:
    """Also with caches full of NaN, so that neither padded rows nor their block touch those of the sequences."""
    plain, padded = machine(directory, True), machine(directory, False)
    for cache in padded.caches:
        cache.keys.fill_(torch.nan)
        cache.values.fill_(torch.nan)
    padded.run = GraphForward(padded.model, padded.caches, padded.spec, OPTIONS, capture)
    compare(plain, padded)


def test_only_what_can_be_recorded_is(directory: Path) -> None:
    plain = machine(directory, True)
    assert isinstance(best_forward(plain.model, plain.caches, plain.spec, OPTIONS), Forward)


def test_cuda_graphs_need_a_device(directory: Path) -> None:
    native = machine(directory, False)
    with pytest.raises(ConfigError, match="enable_cuda_graphs=true: there is no CUDA device"):
        best_forward(native.model, native.caches, native.spec, OPTIONS, True)


@torch.inference_mode()
def test_steps_with_guesses_have_graphs_too(directory: Path) -> None:
    """Where few requests are allowed: each of them is several rows."""
    few, sizes = machine(directory, False), list[int]()

    def noted(run: Callable[[], Tensor]) -> tuple[Replayed, Tensor]:
        replayed, hidden = capture(run)
        sizes.append(len(hidden))
        return replayed, hidden

    options = BatchingOptions(max_total_tokens=LONGEST, max_concurrent_requests=2)
    GraphForward(few.model, few.caches, few.spec, options, noted)
    assert sorted(sizes) == [1, 2]
    sizes.clear()
    GraphForward(few.model, few.caches, few.spec, options, noted, rows=4)
    assert sorted(sizes) == [1, 2, 4, 8]
