"""Products where the compiled kernels cannot run, against float32; every format in plain torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models import needs
from tgi_server.kernels import table
from tgi_server.kernels.formats import Codebook4, Dense, Int4Grouped, Int8, packed, unpacked
from tgi_server.kernels.plain import ROWS, float_logits, head, linear


@pytest.mark.parametrize("library", ["onednn", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products(library: str, dtype: torch.dtype) -> None:
    if table._LIBRARIES[library](needs(dtype=dtype)):
        pytest.skip("not on this processor")
    torch.manual_seed(0)
    make = next(row for row in ROWS if (row.operation, row.library) == ("linear", library)).load()
    make_head = next(row for row in ROWS if (row.operation, row.library) == ("head", library)).load()
    weight, bias = torch.randn(33, 65).to(dtype), torch.randn(33).to(dtype)
    for rows in (1, 5, 40):
        x = torch.randn(rows, 65).to(dtype)
        product = x.float() @ weight.float().T
        for added in (bias, None):
            expected = product + (0 if added is None else added.float())
            got = make(Dense(weight), added, dtype)(x)
            assert torch.allclose(got.float(), expected, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-4)
        scores = make_head(weight)(x)
        assert scores.dtype == torch.float32
        assert torch.allclose(scores.amax(-1), product.amax(-1), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_sums_of_8_bit_weights_fit(dtype: torch.dtype) -> None:
    weight = Int8(torch.full((3, 4096), 127, dtype=torch.int8), torch.full((3,), 1e-4))
    got = linear(weight, torch.ones(3, dtype=dtype), dtype)(torch.full((2, 4096), 2.0, dtype=dtype))
    assert torch.allclose(got.float(), torch.full((2, 3), 2 * 4096 * 127e-4 + 1), rtol=1e-2)


def test_the_leading_logits_are_exact() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(200, 64).bfloat16(), torch.randn(6, 64).bfloat16()
    exact = x.float() @ weight.float().T
    got = float_logits(x, weight, linear(Dense(weight), None, torch.bfloat16))
    assert torch.equal(got.argmax(-1), exact.argmax(-1))
    assert torch.allclose(got.amax(-1), exact.amax(-1), rtol=1e-6)
    assert torch.equal(head(weight)(x), got)


def test_codes_are_packed_low_half_first() -> None:
    numbers = torch.tensor([[1, 15, 0, 7]])
    assert packed(numbers).tolist() == [[0xF1, 0x70]]
    assert torch.equal(unpacked(packed(numbers)).long(), numbers)
    with pytest.raises(ValueError, match="3 inputs"):
        packed(torch.zeros(2, 3))


def test_groups_of_4_bits() -> None:
    torch.manual_seed(0)
    codes, scale, zero = torch.randint(0, 16, (3, 10)), torch.rand(3, 3), torch.randint(0, 16, (3, 3)).float()
    dense = torch.stack([(codes[:, i] - zero[:, i // 4]) * scale[:, i // 4] for i in range(10)], 1)
    groups = torch.arange(10) // 4
    weight = Int4Grouped(packed(codes), scale, zero, groups)
    assert torch.allclose(weight.widened(torch.float32), dense)
    order = torch.randperm(10)
    permuted = Int4Grouped(packed(codes[:, order]), scale, zero, groups[order])
    x = torch.randn(5, 10)
    assert torch.allclose(linear(permuted, None, torch.float32)(x[:, order]), x @ dense.T, atol=1e-5)


def test_codebooks() -> None:
    torch.manual_seed(0)
    codes, book, scale = torch.randint(0, 16, (4, 8)), torch.randn(16).sort().values, torch.rand(2)
    dense = (book[codes].view(2, 16) * scale.unsqueeze(1)).view(4, 8)
    assert torch.allclose(Codebook4(packed(codes), book, scale, block=16).widened(torch.float32), dense)


def test_every_format_has_somebody_who_multiplies_it() -> None:
    for kind in (Dense, Int8, Int4Grouped, Codebook4):
        for plain in (True, False):
            assert table.best("linear", replace(needs(plain), format=kind)).library in ("torch", "native")
