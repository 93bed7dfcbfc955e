"""The Triton kernels, compiled, on the shapes of an 8B Llama and some others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.attention import features_of
from tests.triton_checks import (
    check_add_norm,
    check_capture,
    check_decode,
    check_experts,
    check_gate,
    check_int8_linear,
    check_linear,
    check_norms_of_all_heads,
    check_rotate_store,
    check_sample,
    check_steps,
    drawn,
    norms,
)
from tests.weights import KINDS, Codes, int8_outlier
from tgi_server.kernels.attention import Features
from tgi_server.kernels.experts import Mixture
from tgi_server.kernels.operations import Activation, Clamp, Norm, NormKind
from tgi_server.kernels.triton.decode import MOST_PARTS

pytestmark = pytest.mark.gpu

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
ROWS = pytest.mark.parametrize("rows", [1, 128, 2000])
LLAMA = 32, 8, 128
SHAPES = pytest.mark.parametrize("shape", [LLAMA, (9, 3, 64), (32, 32, 80), (8, 1, 256), (71, 1, 64)], ids=str)
NAMES = pytest.mark.parametrize("name", ["window", "long-window", "softcap", "slopes", "sinks", "all"])
STEPS = [[1000, 130, 0, 5], [1, 1, 64, 1], [700, 1, 0, 1], [1, 1, 1, 1], [298, 0, 15, 0]]
CONTEXTS = [4000, 1, 17, 512, 513]


def plain(shape: tuple[int, int, int]) -> Features:
    return Features(shape[-1] ** -0.5)


def featured(name: str, heads: int, width: int) -> Features:
    """With the usual scale and a window that shows several tiles."""
    features = features_of(heads)[name]
    return replace(features, scale=width**-0.5, window=features.window and 25 * features.window)


@DTYPES
@ROWS
def test_add_norm(dtype: torch.dtype, rows: int) -> None:
    for norm in norms(4096):
        check_add_norm(dtype, rows, 4096, norm, scale=0.5)
        check_add_norm(dtype, rows, 4096, norm, norm)
    check_add_norm(dtype, rows, 4096, None)


@DTYPES
@ROWS
@pytest.mark.parametrize("activation", Activation, ids=lambda kind: kind.name)
def test_gate(dtype: torch.dtype, rows: int, activation: Activation) -> None:
    check_gate(dtype, rows, 14336, activation)
    check_gate(dtype, rows, 14336, activation, gated=False)
    check_gate(dtype, rows, 14336, activation, clamp=Clamp(1.702, 7.0, 1.0))


@DTYPES
@pytest.mark.parametrize("rows", [1, 7, 128, 1000])
@pytest.mark.parametrize("int8", [False, True])
def test_experts(dtype: torch.dtype, rows: int, int8: bool) -> None:
    check_experts(dtype, rows, Mixture(32, 4, Activation.SILU, clamp=Clamp(1.702, 7.0, 1.0)), 2880, 720, int8)
    check_experts(dtype, rows, Mixture(60, 8, Activation.SILU, over_all=True), 1000, 333, int8, bias=False)


@DTYPES
@ROWS
@SHAPES
def test_rotate_store(dtype: torch.dtype, rows: int, shape: tuple[int, int, int]) -> None:
    check_rotate_store(dtype, rows, *shape)
    width = shape[-1]
    query_norm = Norm(NormKind.RMS, 1e-6, torch.randn(width))
    key_norm = Norm(NormKind.LAYER, 1e-6, torch.randn(width), torch.randn(width))
    for turned in (width, width // 4, 0):
        check_rotate_store(dtype, rows, *shape, turned, value_width=64, norms=(query_norm, key_norm))
    check_norms_of_all_heads(dtype, rows, *shape)


@DTYPES
@SHAPES
@pytest.mark.parametrize("parts", [1, 2, 33, MOST_PARTS])
def test_decode(dtype: torch.dtype, shape: tuple[int, int, int], parts: int) -> None:
    check_decode(dtype, shape, CONTEXTS, parts, plain(shape), spare=7)


@DTYPES
@NAMES
@pytest.mark.parametrize("parts", [1, 5])
def test_decode_with_features(dtype: torch.dtype, name: str, parts: int) -> None:
    check_decode(dtype, LLAMA, CONTEXTS, parts, featured(name, 32, 128), spare=7)
    check_decode(dtype, (16, 16, 192), CONTEXTS, parts, featured(name, 16, 192), value_width=128)


@DTYPES
@SHAPES
def test_steps(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    check_steps(dtype, shape, STEPS, plain(shape))


@DTYPES
@NAMES
@pytest.mark.parametrize("causal", [True, False])
def test_steps_with_features(dtype: torch.dtype, name: str, causal: bool) -> None:
    check_steps(dtype, LLAMA, STEPS, replace(featured(name, 32, 128), causal=causal))
    check_steps(dtype, (16, 16, 192), STEPS, replace(featured(name, 16, 192), causal=causal), value_width=128)


@DTYPES
@pytest.mark.parametrize("rows", [1, 7, 128, 1000])
@pytest.mark.parametrize(("inputs", "outputs"), [(4096, 6144), (14336, 4096), (4095, 33)])
def test_int8_linear(dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    check_int8_linear(dtype, rows, inputs, outputs)


@DTYPES
@pytest.mark.parametrize("rows", [1, 7, 40, 300])
@pytest.mark.parametrize(("inputs", "outputs"), [(4096, 6144), (11008, 4096), (4088, 33)])
def test_quantised_linear(dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    for codes in KINDS:
        check_linear(dtype, rows, codes.weight(outputs, inputs))
    check_linear(dtype, rows, int8_outlier(outputs, inputs))


@DTYPES
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("codes", KINDS, ids=str)
def test_inputs_of_8_bits(dtype: torch.dtype, rows: int, codes: Codes) -> None:
    check_linear(dtype, rows, replace(codes, byte_inputs=True).weight(1000, 2048))


@DTYPES
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("codes", [KINDS[0], KINDS[4], KINDS[6], KINDS[8]], ids=str)
def test_experts_of_codes(dtype: torch.dtype, rows: int, codes: Codes) -> None:
    check_experts(dtype, rows, Mixture(8, 2, Activation.SILU), 1024, 736, codes=codes)


@pytest.mark.parametrize("rows", [1, 7, 40, 300])
def test_captured_linear(rows: int) -> None:
    for codes in (KINDS[0], KINDS[4], KINDS[8], replace(KINDS[7], byte_inputs=True)):
        check_capture(torch.bfloat16, rows, codes.weight(512, 1024))
    check_capture(torch.bfloat16, rows, int8_outlier(512, 1024))


@pytest.mark.parametrize("rows", [1, 128])
def test_choice(rows: int) -> None:
    logits = torch.randn(rows, 128256) * 3
    check_sample(logits.clone(), drawn([None] * rows))
    check_sample(logits.clone(), drawn([i if i % 3 == 0 else None for i in range(rows)]))
    check_sample(logits[:, :101], drawn([i if i % 3 == 0 else None for i in range(rows)]))
