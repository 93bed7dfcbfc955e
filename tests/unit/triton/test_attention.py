"""Decode and prefill over the paged cache, in which all that was never written is NaN."""

from __future__ import annotations

import pytest
import torch

from tests.triton_checks import check_decode, check_steps
from tgi_server.attention.base import AttentionBatch
from tgi_server.attention.flash import FlashAttention, select
from tgi_server.attention.triton import TritonAttention
from tgi_server.triton.decode import MOST_PARTS, choose_parts

SHAPES = [(4, 4, 32), (9, 3, 64), (3, 1, 80), (2, 1, 256)]


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), SHAPES)
def test_decode(heads: int, kv_heads: int, dim: int) -> None:
    check_decode(torch.float32, heads, kv_heads, dim, [1, 16, 70], 1)


@pytest.mark.parametrize(
    ("kv_heads", "contexts", "parts"), [(2, [150, 1], 2), (1, [200, 65], 3), (1, [130], MOST_PARTS)]
)
def test_decode_in_parts_of_which_some_are_empty(kv_heads: int, contexts: list[int], parts: int) -> None:
    check_decode(torch.float32, 2, kv_heads, 32, contexts, parts, spare=3)


def test_decode_in_half_precision() -> None:
    check_decode(torch.float16, 4, 2, 32, [17, 90], 2)


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), SHAPES)
def test_prefill_with_and_without_earlier_context(heads: int, kv_heads: int, dim: int) -> None:
    check_steps(torch.float32, heads, kv_heads, dim, [70], [[40], [29], [1]])


def test_mixed_steps() -> None:
    check_steps(
        torch.float32, 6, 2, 32, [70, 100, 17, 3], [[20, 99, 0, 0], [33, 1, 16, 1], [1, 0, 1, 2], [16, 0, 0, 0]]
    )


def test_prefill_in_half_precision() -> None:
    check_steps(torch.float16, 4, 2, 32, [50, 20], [[30, 1], [20, 19]])


def test_more_query_heads_than_rows_of_a_tile() -> None:
    check_steps(torch.float32, 71, 1, 32, [20], [[17], [2], [1]])


def test_reasons_not_to_run() -> None:
    cpu = torch.device("cpu")
    assert TritonAttention().unsupported(cpu, torch.float32, 80) == ["the Triton kernels need a GPU"]
    reasons = "; ".join(TritonAttention().unsupported(cpu, torch.float64, 264))
    assert "head_dim=264" in reasons and "float64" in reasons
    reasons = "; ".join(FlashAttention().unsupported(cpu, torch.float32, 84))
    for reason in ("needs a GPU", "not torch.float32", "head_dim=84"):
        assert reason in reasons


def test_some_sequences_of_a_batch_are_a_batch() -> None:
    batch = AttentionBatch(
        query_starts=[0, 2, 3, 6],
        query_lengths=[2, 1, 3],
        context_lengths=[2, 9, 3],
        starts=torch.tensor([0, 2, 3, 6]),
        contexts=torch.tensor([2, 9, 3]),
        block_tables=torch.tensor([[1], [2], [3]]),
        slots=torch.arange(16, 22),
    )
    rows, part = select(batch, [0, 2])
    assert rows.tolist() == [0, 1, 3, 4, 5]
    assert (part.query_starts, part.query_lengths, part.context_lengths) == ([0, 2, 5], [2, 3], [2, 3])
    assert (part.starts.tolist(), part.contexts.tolist()) == ([0, 2, 5], [2, 3])
    assert (part.block_tables.tolist(), part.slots.tolist()) == ([[1], [3]], [16, 17, 19, 20, 21])


@pytest.mark.parametrize(
    ("batch", "kv_heads", "longest", "parts"), [(1, 8, 8000, 33), (1, 8, 100, 1), (128, 8, 8000, 1), (1, 1, 10**6, 64)]
)
def test_parts_keep_132_processors_busy(batch: int, kv_heads: int, longest: int, parts: int) -> None:
    assert choose_parts(batch, kv_heads, longest, 132) == parts
