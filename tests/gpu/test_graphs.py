"""CUDA graphs of a small model against its plain steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models import loaded, write_llama
from tgi_server.attention.triton import TritonAttention
from tgi_server.config.schema import BatchingOptions
from tgi_server.models.decoder import attention_shape
from tgi_server.models.spec import read_spec
from tgi_server.shard.batch import BatchState, StepInputs
from tgi_server.shard.graphs import Forward, GraphForward, best_forward
from tgi_server.shard.kv_cache import allocate
from tgi_server.types import NewSequence, Plan, SamplingParams

pytestmark = pytest.mark.gpu


@torch.inference_mode()
def test_graphs_equal_plain_steps(tmp_path: Path) -> None:
    from tgi_server.layers.triton_ops import TritonOps

    write_llama(tmp_path)
    device, count, options = torch.device("cuda"), 9, BatchingOptions(max_total_tokens=64)
    model = loaded(tmp_path, TritonAttention(), TritonOps(torch.float32), 64, "cuda")
    spec = read_spec(tmp_path)
    plain, recorded = (
        allocate(4 * count + 1, attention_shape(spec, 1), spec.num_layers, torch.float32, device) for _ in range(2)
    )
    run = best_forward(model, recorded, options, cuda_graphs=True)
    assert isinstance(run, GraphForward)
    state = BatchState(64, device)
    new = [NewSequence(i, [i + 1] * 40, [4 * i + k for k in range(4)], SamplingParams()) for i in range(count)]
    state.update(Plan(0, [], [], new=new))

    def step(ids: list[int], counts: list[int]) -> StepInputs:
        inputs = state.inputs(Plan(0, ids, counts))
        state.advance(Plan(0, ids, counts), [], [])
        return inputs

    everyone = list(range(count))
    for ids, counts in [(everyone, [i + 3 for i in everyone])] + [(everyone[:n], [1] * n) for n in (1, 9, 3, 8, 2)] * 2:
        inputs = step(ids, counts)
        assert torch.allclose(run(inputs), Forward(model, plain)(inputs), atol=1e-4)
