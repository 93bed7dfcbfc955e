"""Every attention against plain causal attention over whole sequences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tgi_server.attention.auto import AutoAttention
from tgi_server.attention.base import Attention, AttentionBatch, LayerCache
from tgi_server.attention.native import NativeAttention
from tgi_server.attention.sdpa import SdpaAttention
from tgi_server.types import BLOCK_SIZE

CPU = torch.device("cpu")
EVERY = [SdpaAttention(), NativeAttention()]


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention over a whole sequence, `[n, heads, dim]` in float32."""
    q, k, v = (x.float().transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


class Sequence:
    """Random query, key and value of `length` positions; the cache blocks they live in; how far they are computed."""

    def __init__(self, length: int, heads: int, kv_heads: int, dim: int, blocks: list[int], dtype: torch.dtype) -> None:
        self.whole = [torch.randn(length, n, dim).to(dtype) for n in (heads, kv_heads, kv_heads)]
        self.blocks = blocks
        self.done = 0
        self.results: list[Tensor] = []

    def slot(self, position: int) -> int:
        return self.blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE


def step(attention: Attention, cache: LayerCache, sequences: list[Sequence], counts: list[int]) -> None:
    """Compute `counts` new positions of each sequence (0 leaves it out) and keep the results with the sequences."""
    chosen = [(s, range(s.done, s.done + n)) for s, n in zip(sequences, counts, strict=True) if n]
    lengths = [len(positions) for _, positions in chosen]
    width = max(len(s.blocks) for s, _ in chosen)
    starts, contexts = [0, *torch.tensor(lengths).cumsum(0).tolist()], [positions.stop for _, positions in chosen]
    batch = AttentionBatch(
        query_starts=starts,
        query_lengths=lengths,
        context_lengths=contexts,
        starts=torch.tensor(starts),
        contexts=torch.tensor(contexts),
        block_tables=torch.tensor([s.blocks + [0] * (width - len(s.blocks)) for s, _ in chosen]),
        slots=torch.tensor([s.slot(p) for s, positions in chosen for p in positions]),
    )
    query, key, value = (torch.cat([s.whole[i][p.start : p.stop] for s, p in chosen]) for i in range(3))
    block, offset = batch.slots // BLOCK_SIZE, batch.slots % BLOCK_SIZE
    cache.keys[block, :, offset], cache.values[block, :, offset] = key, value
    out = attention.begin(batch)(query, key, value, cache)
    for (sequence, positions), part in zip(chosen, torch.split(out, lengths), strict=True):
        sequence.results.append(part)
        sequence.done = positions.stop


def empty_cache(blocks: int, kv_heads: int, dim: int, dtype: torch.dtype) -> LayerCache:
    """NaN wherever nothing was written: what lies beyond a context must not matter."""
    return LayerCache(*(torch.full((blocks, kv_heads, BLOCK_SIZE, dim), torch.nan, dtype=dtype) for _ in range(2)))


@pytest.mark.parametrize("attention", EVERY, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_any_split_into_steps_equals_whole_sequences(
    attention: Attention, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    cache = empty_cache(10, 2, 32, dtype)
    sequences = [Sequence(n, 6, 2, 32, b, dtype) for n, b in ((40, [9, 2, 5]), (17, [1, 7]), (5, [4]))]
    for counts in ([20, 16, 0], [19, 1, 4], [1, 0, 1]):
        step(attention, cache, sequences, counts)
    for sequence in sequences:
        assert torch.allclose(torch.cat(sequence.results).float(), dense(*sequence.whole), atol=tolerance)


@pytest.mark.parametrize("attention", EVERY, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 64), (9, 3, 64), (8, 1, 96), (2, 1, 128)])
def test_head_shapes_and_long_contexts(attention: Attention, heads: int, kv_heads: int, dim: int) -> None:
    torch.manual_seed(1)
    length = 1100  # more than two of the native kernel's chunks
    cache = empty_cache(70, kv_heads, dim, torch.float32)
    sequence = Sequence(length, heads, kv_heads, dim, torch.randperm(70)[:69].tolist(), torch.float32)
    for count in (length - 290, 1, 6, 2, 128, 129, 24):
        step(attention, cache, [sequence], [count])
    assert torch.allclose(torch.cat(sequence.results), dense(*sequence.whole), atol=1e-5)


def test_reasons_not_to_run() -> None:
    assert NativeAttention().unsupported(CPU, torch.float32, 64) == []
    assert "float16" in NativeAttention().unsupported(CPU, torch.float16, 64)[0]
    assert "head_dim=80" in NativeAttention().unsupported(CPU, torch.float32, 80)[0]
    assert "CPU" in NativeAttention().unsupported(torch.device("cuda"), torch.float32, 64)[0]


def test_auto_takes_the_best_that_runs() -> None:
    assert isinstance(AutoAttention().choose(CPU, torch.bfloat16, 64), NativeAttention)
    assert isinstance(AutoAttention().choose(CPU, torch.bfloat16, 80), SdpaAttention)
