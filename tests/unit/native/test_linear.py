"""The compiled product against torch's, for sizes that fill panels and tiles and sizes that do not."""

from __future__ import annotations

import pytest
import torch

from tgi_server.native import kernels
from tgi_server.native.linear import NativeLinear, why_not

ROWS = (1, 2, 3, 7, 12, 13, 26, 49, 60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", ["same", "int8"])
@pytest.mark.parametrize(("inner", "outer"), [(64, 32), (66, 33), (10, 1), (130, 100), (576, 70)])
def test_products(dtype: torch.dtype, stored: str, inner: int, outer: int) -> None:
    torch.manual_seed(0)
    bias = torch.randn(outer).to(dtype)
    if stored == "int8":
        weight, scale = torch.randint(-127, 128, (outer, inner), dtype=torch.int8), torch.rand(outer) / 100
    else:
        weight, scale = torch.randn(outer, inner).to(dtype), None
    layer, plain = NativeLinear(weight, dtype, scale, bias), NativeLinear(weight, dtype, scale)
    for rows in ROWS:
        x = torch.randn(rows, inner).to(dtype)
        exact = x.double() @ weight.double().T * (1 if scale is None else scale.double())
        tolerance = 1e-5 if dtype == torch.float32 else 2**-7
        for got, expected in ((layer(x), exact + bias.double()), (plain(x), exact)):
            assert got.dtype == dtype
            assert torch.allclose(got.double(), expected, rtol=tolerance, atol=tolerance * 4)


def test_logits_are_float32_sums() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(50, 64).bfloat16(), torch.randn(5, 64).bfloat16()
    got = NativeLinear(weight, torch.bfloat16, result=torch.float32)(x)
    assert torch.allclose(got, x.float() @ weight.float().T, atol=1e-4)


def test_a_row_does_not_depend_on_its_company() -> None:
    """Batches of other sizes go through tiles of other sizes; the sums of a row must not change with them much."""
    torch.manual_seed(0)
    weight, x = torch.randn(96, 576).bfloat16(), torch.randn(40, 576).bfloat16()
    layer = NativeLinear(weight, torch.bfloat16, result=torch.float32)
    whole = layer(x)
    for rows in ROWS[:-2]:
        assert torch.allclose(layer(x[:rows]), whole[:rows], atol=1e-4)


def test_reasons_against_it() -> None:
    assert why_not(torch.bfloat16, torch.zeros(4, 8, dtype=torch.int8)) == []
    assert "odd" in why_not(torch.bfloat16, torch.zeros(4, 7, dtype=torch.int8))[0]
    assert "float16" in why_not(torch.float16, torch.zeros(4, 8, dtype=torch.float16))[0]
    assert "CPU" in why_not(torch.float32, torch.zeros(4, 8, device="meta"))[0]
    with pytest.raises(ValueError, match="7 inputs"):
        kernels.pack(torch.zeros(4, 7), torch.bfloat16)


def test_best_of_each_row() -> None:
    torch.manual_seed(0)
    for rows, size in ((1, 2), (3, 15), (2, 16), (5, 1000), (4, 4099)):
        scores = torch.randn(rows, size) * 10
        scores[:, size // 3] = -torch.inf
        places, normalisers = kernels.best(scores)
        assert torch.equal(places, scores.argmax(dim=-1))
        assert torch.allclose(normalisers, scores.logsumexp(dim=-1), atol=1e-5)


def test_the_first_of_equal_scores_is_the_best() -> None:
    scores = torch.zeros(3, 70)
    scores[0, [40, 20, 69]] = scores[1, [69, 68]] = scores[2, [33, 17]] = 2.0
    assert kernels.best(scores)[0].tolist() == [20, 68, 17]
