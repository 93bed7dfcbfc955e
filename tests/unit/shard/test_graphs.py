"""Recorded steps against plain ones: batches that grow, shrink and mix, and rows that only pad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models import loaded, write_llama
from tgi_server.attention.native import NativeAttention
from tgi_server.attention.sdpa import SdpaAttention
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ConfigError
from tgi_server.layers.ops import NativeOps, TorchOps
from tgi_server.models.decoder import Decoder, attention_shape
from tgi_server.models.spec import read_spec
from tgi_server.native import calls
from tgi_server.shard.batch import BatchState, StepInputs
from tgi_server.shard.graphs import Forward, GraphForward, NativeForward, best_forward
from tgi_server.shard.kv_cache import allocate
from tgi_server.types import NewSequence, Plan, SamplingParams

CPU = torch.device("cpu")
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


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    write_llama(path)
    return path


class Machine:
    """A model with a cache and three sequences."""

    def __init__(self, directory: Path, native: bool) -> None:
        spec = read_spec(directory)
        ops = NativeOps(torch.float32) if native else TorchOps(torch.float32)
        attention = NativeAttention() if native else SdpaAttention()
        self.model: Decoder = loaded(directory, attention, ops, LONGEST)
        self.caches = allocate(13, attention_shape(spec, 1), spec.num_layers, torch.float32, CPU)
        self.state = BatchState(LONGEST, CPU)
        prompts = [[7, 3, 9, 1, 2] + [4] * 30, list(range(20)) + [5] * 20, [8, 8, 8] + [6] * 30]
        new = [NewSequence(i, p, [4 * i, 4 * i + 1, 4 * i + 2], SamplingParams()) for i, p in enumerate(prompts)]
        self.state.update(Plan(0, [], [], new=new))

    def inputs(self, ids: list[int], counts: list[int]) -> StepInputs:
        plan = Plan(0, ids, counts)
        inputs = self.state.inputs(plan)
        self.state.advance(plan, [], [])
        return inputs


@torch.inference_mode()
def test_recorded_steps_equal_plain_ones(directory: Path) -> None:
    plain, recorded = Machine(directory, native=False), Machine(directory, native=True)
    run = best_forward(recorded.model, recorded.caches, OPTIONS)
    assert isinstance(run, NativeForward)
    for ids, counts in PLANS:
        expected = Forward(plain.model, plain.caches)(plain.inputs(ids, counts))
        assert torch.allclose(run(recorded.inputs(ids, counts)), expected, atol=1e-4)


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
    plain, padded = Machine(directory, native=False), Machine(directory, native=True)
    for cache in padded.caches:
        cache.keys.fill_(torch.nan)
        cache.values.fill_(torch.nan)
    run = GraphForward(padded.model, padded.caches, OPTIONS, capture)
    for ids, counts in PLANS:
        expected = Forward(plain.model, plain.caches)(plain.inputs(ids, counts))
        assert torch.allclose(run(padded.inputs(ids, counts)), expected, atol=1e-4)


def test_only_what_can_be_recorded_is(directory: Path) -> None:
    machine = Machine(directory, native=False)
    assert isinstance(best_forward(machine.model, machine.caches, OPTIONS), Forward)


def test_cuda_graphs_need_a_device(directory: Path) -> None:
    machine = Machine(directory, native=True)
    with pytest.raises(ConfigError, match="enable_cuda_graphs=true: there is no CUDA device"):
        best_forward(machine.model, machine.caches, OPTIONS, True)
