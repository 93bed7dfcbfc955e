"""The operations between a decoder's products, also for sizes that are no power of two."""

from __future__ import annotations

import pytest
import torch

from tests.triton_checks import check_add_norm, check_gate, check_norms_of_all_heads, check_rotate_store, norms
from tgi_server.kernels.operations import FREE, Activation, Clamp, Norm, NormKind
from tgi_server.kernels.triton import gating

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def rms(size: int) -> Norm:
    return Norm(NormKind.RMS, 1e-5, torch.randn(size))


@DTYPES
def test_add_norm(dtype: torch.dtype) -> None:
    check_add_norm(dtype, 2, 33, rms(33))


@pytest.mark.parametrize(("rows", "size"), [(1, 576), (2, 5)])
def test_every_kind_of_norm(rows: int, size: int) -> None:
    for norm in norms(size):
        check_add_norm(torch.float32, rows, size, norm)


def test_norms_of_what_is_added() -> None:
    for post in norms(33):
        check_add_norm(torch.float32, 2, 33, rms(33), post)
    check_add_norm(torch.float32, 2, 33, None, rms(33), 0.22)


def test_the_addition_alone_and_scaled() -> None:
    check_add_norm(torch.float32, 3, 33, None)
    check_add_norm(torch.bfloat16, 3, 33, rms(33), scale=0.22)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", Activation, ids=lambda kind: kind.name)
def test_gate(activation: Activation, gated: bool) -> None:
    check_gate(torch.float32, 2, gating.BLOCK + 77, activation, gated, Clamp(1.7, 3.0, 1.0) if gated else FREE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gate_in_half_precision(dtype: torch.dtype) -> None:
    check_gate(dtype, 2, 3, Activation.SILU)


@DTYPES
@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "width"), [(1, 9, 3, 64), (2, 4, 1, 8), (2, 2, 2, 80), (1, 3, 3, 264)]
)
def test_rotate_store(dtype: torch.dtype, rows: int, heads: int, kv_heads: int, width: int) -> None:
    check_rotate_store(dtype, rows, heads, kv_heads, width)


@pytest.mark.parametrize("turned", [0, 12, 40])
def test_heads_that_turn_in_part_or_not_at_all(turned: int) -> None:
    for own in ((None, None), (rms(40), norms(40)[-1])):
        check_rotate_store(torch.float32, 2, 6, 2, 40, turned, norms=own)


def test_norms_of_heads() -> None:
    kinds = [None, *norms(40)]
    for query_norm, key_norm in zip(kinds, kinds[1:] + kinds[:1], strict=True):
        check_rotate_store(torch.float32, 2, 6, 2, 40, 12, norms=(query_norm, key_norm))


def test_norms_of_all_heads_together() -> None:
    check_norms_of_all_heads(torch.float32, 2, 6, 2, 40)
    check_norms_of_all_heads(torch.bfloat16, 1, 9, 3, 64)


def test_values_of_another_width() -> None:
    check_rotate_store(torch.bfloat16, 2, 6, 2, 24, value_width=16, norms=(rms(24), rms(24)))
    check_rotate_store(torch.float32, 2, 2, 1, 8, 4, value_width=40)
