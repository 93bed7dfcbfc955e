"""The operations between a decoder's products, also for sizes that are no power of two."""

from __future__ import annotations

import pytest
import torch

from tests.triton_checks import check_add_norm, check_gate, check_rotate_store

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "size"), [(1, 576), (7, 33), (3, 5)])
def test_add_norm(dtype: torch.dtype, rows: int, size: int) -> None:
    check_add_norm(dtype, rows, size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "inner"), [(1, 1536), (5, 171), (2, 3)])
def test_gate(dtype: torch.dtype, rows: int, inner: int) -> None:
    check_gate(dtype, rows, inner)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "heads", "kv_heads", "dim"), [(1, 9, 3, 64), (5, 4, 1, 8), (3, 2, 2, 80)])
def test_rotate_store(dtype: torch.dtype, rows: int, heads: int, kv_heads: int, dim: int) -> None:
    check_rotate_store(dtype, rows, heads, kv_heads, dim)
