"""The Triton kernels, compiled, on the shapes of an 8B Llama."""

from __future__ import annotations

import pytest
import torch

from tests.triton_checks import (
    check_add_norm,
    check_choice,
    check_decode,
    check_gate,
    check_int8_linear,
    check_rotate_store,
    check_steps,
)
from tgi_server.types import SamplingParams

pytestmark = pytest.mark.gpu

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
ROWS = pytest.mark.parametrize("rows", [1, 128, 2000])
LLAMA = 32, 8, 128
SHAPES = pytest.mark.parametrize("shape", [LLAMA, (9, 3, 64), (32, 32, 80), (8, 1, 256), (71, 1, 64)], ids=str)


@DTYPES
@ROWS
def test_add_norm(dtype: torch.dtype, rows: int) -> None:
    check_add_norm(dtype, rows, 4096)


@DTYPES
@ROWS
def test_gate(dtype: torch.dtype, rows: int) -> None:
    check_gate(dtype, rows, 14336)


@DTYPES
@ROWS
@SHAPES
def test_rotate_store(dtype: torch.dtype, rows: int, shape: tuple[int, int, int]) -> None:
    check_rotate_store(dtype, rows, *shape)


@DTYPES
@SHAPES
@pytest.mark.parametrize("parts", [1, 2, 33])
def test_decode(dtype: torch.dtype, shape: tuple[int, int, int], parts: int) -> None:
    check_decode(dtype, *shape, [4000, 1, 17, 512, 513], parts, spare=7)


@DTYPES
@SHAPES
def test_steps(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    steps = [[1000, 130, 0, 5], [1, 1, 64, 1], [700, 1, 0, 1], [1, 1, 1, 1], [298, 0, 15, 0]]
    check_steps(dtype, *shape, [2000, 133, 80, 8], steps)


@DTYPES
@pytest.mark.parametrize("rows", [1, 7, 128, 1000])
@pytest.mark.parametrize(("inputs", "outputs"), [(4096, 6144), (14336, 4096), (4095, 33)])
def test_int8_linear(dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    check_int8_linear(dtype, rows, inputs, outputs)


@pytest.mark.parametrize("rows", [1, 128])
def test_choice(rows: int) -> None:
    logits = torch.randn(rows, 128256) * 3
    check_choice(logits, [SamplingParams()] * rows)
    check_choice(logits, [SamplingParams(do_sample=bool(i % 3 == 0), seed=i) for i in range(rows)])
