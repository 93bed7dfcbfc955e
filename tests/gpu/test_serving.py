"""What a shard does with the kernels on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.attention import Case, empty_cache, step
from tests.models import needs
from tests.sampling import rows_of
from tgi_server.cache.memory import free_memory
from tgi_server.kernels.attention import AttentionBatch, Features, LayerCache
from tgi_server.kernels.formats import Dense
from tgi_server.kernels.row import Needs
from tgi_server.kernels.table import best, every
from tgi_server.shard.sampler import choose
from tgi_server.types import SamplingParams

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


def on_gpu(dtype: torch.dtype) -> Needs:
    return needs(device=CUDA, dtype=dtype, key_width=128, value_width=128, format=Dense)


def test_the_kernels_are_taken() -> None:
    for dtype, attention in ((torch.bfloat16, ("flash_attn", "triton")), (torch.float32, ("triton",))):
        for choice in every(on_gpu(dtype)):
            wanted = {"attention": attention, "linear": ("cublas",), "head": ("cublas",)}
            assert choice.library in wanted.get(choice.operation, ("triton",)), choice
            assert choice.recorder == "graphs"


def test_flash_attention_in_mixed_steps() -> None:
    pytest.importorskip("flash_attn")
    cache = empty_cache(20, 8, 128, torch.bfloat16)
    blocks = torch.split(torch.randperm(20), [7, 6, 7])
    cases = [Case(n, 32, 8, 128, own.tolist(), torch.bfloat16) for n, own in zip([100, 90, 112], blocks, strict=True)]
    features = Features(128**-0.5)
    for counts in ([60, 0, 0], [1, 80, 70], [30, 9, 0], [1, 1, 1]):
        step(best("attention", on_gpu(torch.bfloat16)).run, cache, cases, counts, features)
    for case in cases:
        assert torch.allclose(torch.cat(case.results).double(), case.expected(features), atol=2e-2)


def test_a_recorded_step_serves_other_lengths() -> None:
    """As shard/graphs.py does it: lengths on the host are upper bounds, those on the device change between runs."""
    sequences, blocks, cell = 4, 64, (8, 16, 128)
    cache = LayerCache(*torch.randn(2, blocks, *cell, dtype=torch.bfloat16))
    query = torch.randn(sequences, 32, 128, dtype=torch.bfloat16)
    tables = torch.randperm(blocks).view(sequences, -1)
    contexts = torch.ones(sequences, dtype=torch.int64)

    def attend(bounds: list[int]) -> torch.Tensor:
        batch = AttentionBatch(
            query_starts=list(range(sequences + 1)),
            query_lengths=[1] * sequences,
            context_lengths=bounds,
            starts=starts,
            contexts=contexts,
            block_tables=tables,
            slots=slots,
        )
        run = best("attention", on_gpu(torch.bfloat16)).run(batch)
        attended: torch.Tensor = run(query, key, key, cache, Features(128**-0.5))
        return attended

    starts, slots, key = torch.arange(sequences + 1), torch.arange(sequences), query[:, :8]
    attend([256] * sequences)  # compiled before it is recorded
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = attend([256] * sequences)
    for lengths in ([256, 255, 17, 1], [1, 200, 16, 130]):
        contexts.copy_(torch.tensor(lengths))
        graph.replay()
        assert torch.allclose(recorded.float(), attend(lengths).float(), atol=2e-2)


def test_tokens_are_those_of_a_cpu() -> None:
    logits = torch.randn(64, 32000) * 3
    params = [
        SamplingParams(do_sample=True, seed=i, temperature=0.5 + i % 3, top_k=[0, 40][i % 2], top_n_tokens=i % 4)
        for i in range(64)
    ]
    rows = rows_of(params, [np.arange(i) for i in range(64)])
    there, here = (
        choose(scores, rows, best("sample", Needs(device=scores.device, dtype=scores.dtype)).run)
        for scores in (logits.cpu(), logits.clone())
    )
    assert there.tokens.tolist() == here.tokens.tolist()
    assert torch.allclose(there.logprobs, here.logprobs.cpu(), rtol=1e-4, atol=1e-4)
    assert {row: top.ids for row, top in there.top.items()} == {row: top.ids for row, top in here.top.items()}


def test_a_part_of_the_memory() -> None:
    device = torch.device("cuda", 0)
    free, total = torch.cuda.mem_get_info(device)
    assert 0 < free_memory(device, 1.0) <= free
    assert 0 <= free_memory(device, 0.25) <= total // 4
