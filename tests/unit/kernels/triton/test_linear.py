"""Products with weights that are not dense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.triton_checks import check_int8_linear, check_linear
from tests.weights import KINDS, Codes, int8_outlier
from tgi_server.kernels.triton import grouped
from tgi_server.kernels.triton.codes import Layout, layout_of

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
ROWS = pytest.mark.parametrize("rows", [1, 5, 70])


@pytest.mark.parametrize(
    ("dtype", "rows"),
    [(torch.float32, 1), (torch.bfloat16, 1), (torch.bfloat16, 5), (torch.float16, 5), (torch.float32, 70)],
)
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 40), (300, 7)])
def test_int8_linear(dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    check_int8_linear(dtype, rows, inputs, outputs)


@ROWS
@pytest.mark.parametrize("codes", KINDS, ids=str)
def test_groups(codes: Codes, rows: int) -> None:
    check_linear(torch.float32, rows, codes.weight(35, 200))


@pytest.mark.parametrize("codes", [KINDS[0], KINDS[4], KINDS[5], KINDS[8]], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@ROWS
def test_groups_in_half_precision(codes: Codes, rows: int, dtype: torch.dtype) -> None:
    check_linear(dtype, rows, codes.weight(9, 192))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("codes", [KINDS[0], KINDS[4], KINDS[7], KINDS[8]], ids=str)
def test_groups_of_inputs_in_8_bits(codes: Codes, rows: int) -> None:
    check_linear(torch.float32, rows, replace(codes, byte_inputs=True).weight(9, 200))


def test_many_rows_of_inputs_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The widened matrix in several parts."""
    monkeypatch.setattr(grouped, "_WIDENED", 1)
    check_linear(torch.bfloat16, 65, Codes(order="permuted", byte_inputs=True).weight(70, 64))


@DTYPES
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 7, 300), (5, 40, 64), (17, 7, 300)])
def test_large_inputs(dtype: torch.dtype, rows: int, outputs: int, inputs: int) -> None:
    check_linear(dtype, rows, int8_outlier(outputs, inputs))


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([0] * 100, Layout(64, 100, 0, sorted=False)),
        ([i // 128 for i in range(300)], Layout(64, 128, 0, sorted=False)),
        ([(i + 32) // 96 for i in range(200)], Layout(32, 96, 32, sorted=False)),
        ([3 + i // 16 for i in range(64)], Layout(16, 16, 0, sorted=False)),
        ([i // 8 for i in range(64)], Layout(64, 0, 0, sorted=False)),
        ([i % 2 for i in range(64)], Layout(32, 32, 0, sorted=True)),
        ([i % 3 for i in range(64)], Layout(64, 0, 0, sorted=True)),
    ],
)
def test_layouts(groups: list[int], expected: Layout) -> None:
    """A tile has one scale an output wherever groups are made of whole runs."""
    count, inputs = max(groups) + 1, len(groups)
    weight = replace(Codes().weight(2, inputs), scale=torch.rand(2, count), groups=torch.tensor(groups))
    assert layout_of([weight]) == expected
    for rows in (1, 2):
        check_linear(torch.float32, rows, weight)


def test_layers_that_share_a_layout() -> None:
    weights = [Codes(size=size).weight(2, 128) for size in (64, 64, 32)]
    assert layout_of(weights[:2]) == Layout(64, 64, 0, sorted=False)
    assert layout_of(weights) == Layout(64, 0, 0, sorted=False)
