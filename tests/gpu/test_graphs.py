"""CUDA graphs of a small model against its plain steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models import Steps, needs, write_llama
from tgi_server.config.schema import BatchingOptions
from tgi_server.shard.graphs import GraphForward, best_forward

pytestmark = pytest.mark.gpu


@torch.inference_mode()
def test_graphs_equal_plain_steps(tmp_path: Path) -> None:
    write_llama(tmp_path)
    count, options, cuda = 9, BatchingOptions(max_total_tokens=64), torch.device("cuda")
    prompts = [[i + 1] * 40 for i in range(count)]
    plain, recorded = (Steps(tmp_path, prompts, needs(device=cuda)) for _ in range(2))
    recorded.run = best_forward(recorded.model, recorded.caches, recorded.spec, options, cuda_graphs=True)
    assert isinstance(recorded.run, GraphForward)
    everyone = list(range(count))
    for ids, counts in [(everyone, [i + 3 for i in everyone])] + [(everyone[:n], [1] * n) for n in (1, 9, 3, 8, 2)] * 2:
        assert torch.allclose(recorded.hidden(ids, counts), plain.hidden(ids, counts), atol=1e-4)
