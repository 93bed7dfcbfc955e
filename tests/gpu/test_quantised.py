"""Quantised models on a GPU: their decode steps are graphs, and compute what a CPU does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.families.harness import quantise
from tests.models import Steps, needs, write_llama
from tgi_server.config.schema import BatchingOptions
from tgi_server.models.families import read_spec
from tgi_server.quantize.base import QuantizeMethod
from tgi_server.quantize.pick import methods
from tgi_server.shard.graphs import GraphForward, best_forward

pytestmark = pytest.mark.gpu

PROMPTS = [[i + 1] * 20 for i in range(9)]


def compare(directory: Path, quantize: QuantizeMethod | None) -> None:
    """A prompt and some decode steps of few and of more rows."""
    with torch.device("cpu"):
        right = Steps(directory, PROMPTS, needs(plain=True), quantize=quantize)
    got = Steps(directory, PROMPTS, needs(device=torch.device("cuda")), quantize=quantize)
    got.run = best_forward(got.model, got.caches, got.spec, BatchingOptions(max_total_tokens=64), cuda_graphs=True)
    assert isinstance(got.run, GraphForward)
    everyone = list(range(len(PROMPTS)))
    for ids, counts in [(everyone, [20] * 9), (everyone, [1] * 9), ([0], [1]), ([4, 2], [1, 1])]:
        with torch.device("cpu"):
            expected = right.hidden(ids, counts)
        assert torch.allclose(got.hidden(ids, counts).cpu(), expected, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("method", [kind for kind in methods() if hasattr(kind, "weight_bytes")], ids=str)
def test_methods_that_quantise_while_they_load(method: type[QuantizeMethod], tmp_path: Path) -> None:
    with torch.device("cpu"):
        write_llama(tmp_path)
    compare(tmp_path, method())


@torch.inference_mode()
def test_a_quantised_checkpoint(tmp_path: Path) -> None:
    with torch.device("cpu"):
        write_llama(tmp_path)
        quantise(tmp_path, read_spec(tmp_path), tmp_path)
    compare(tmp_path / "codes", None)
