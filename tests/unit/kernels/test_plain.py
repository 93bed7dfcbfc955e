"""Products where the compiled kernels cannot run, against float32; every format in plain torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models import needs
from tgi_server.kernels import table
from tgi_server.kernels.formats import (
    Dense,
    Grouped,
    GroupedByteInputs,
    Int8,
    Int8Outlier,
    joined,
    packed,
    unpacked,
)
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


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("has_offset", [False, True])
def test_groups(bits: int, has_offset: bool) -> None:
    torch.manual_seed(0)
    codes, scale = torch.randint(0, 2**bits, (3, 10)), torch.rand(3, 3)
    offset = torch.randint(-8, 9, (3, 3)).float() if has_offset else None
    added = torch.zeros(3, 3) if offset is None else offset
    numbers = codes - 2 ** (bits - 1)
    dense = torch.stack([(numbers[:, i] + added[:, i // 4]) * scale[:, i // 4] for i in range(10)], 1)
    groups = torch.arange(10) // 4
    weight = Grouped(stored(codes, bits), scale, offset, groups, None)
    assert (weight.bits, weight.inputs) == (bits, 10)
    assert torch.allclose(weight.widened(torch.float32), dense)
    order = torch.randperm(10)
    permuted = Grouped(stored(codes[:, order], bits), scale, offset, groups[order], None)
    x = torch.randn(5, 10)
    assert torch.allclose(linear(permuted, None, torch.float32)(x[:, order]), x @ dense.T, atol=1e-5)


def stored(codes: torch.Tensor, bits: int) -> torch.Tensor:
    return packed(codes) if bits == 4 else codes.to(torch.uint8)


def test_codebooks() -> None:
    torch.manual_seed(0)
    codes, book, scale = torch.randint(0, 16, (4, 8)), torch.randn(16).sort().values, torch.rand(4, 2)
    groups = torch.arange(8) // 4
    weight = Grouped(packed(codes), scale, None, groups, book)
    assert torch.allclose(weight.widened(torch.float32), book[codes] * scale[:, groups])
    rounded = GroupedByteInputs(packed(codes), scale, None, groups, book).widened(torch.float32)
    most = float(book.abs().max())
    assert torch.allclose(rounded, ((book / most * 127).round() / 127 * most)[codes] * scale[:, groups])


def test_inputs_of_8_bits() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 12), torch.randint(0, 16, (3, 12)), torch.randn(3)
    x[:, 4:8] *= 100
    own = GroupedByteInputs(packed(weight), torch.rand(3, 3), torch.randn(3, 3).round(), torch.arange(12) // 4, None)
    step = x.view(5, 3, 4).abs().amax(2, keepdim=True) / 127
    rounded = ((x.view(5, 3, 4) / step).round() * step).view(5, 12)
    assert torch.allclose(linear(own, bias, torch.float32)(x), rounded @ own.widened(torch.float32).T + bias, atol=1e-3)


def test_large_inputs_are_multiplied_as_they_are() -> None:
    torch.manual_seed(0)
    weight, x = Int8Outlier(torch.randint(-127, 128, (3, 12)).to(torch.int8), torch.rand(3), 6.0), torch.randn(5, 12)
    x[1, 3], x[2, 4], x[2, 5] = 20.125, -60.3, 6.0
    ordinary = torch.where(x.abs() < 6, x, 0)
    step = ordinary.abs().amax(1, keepdim=True) / 127
    rounded = torch.where(x.abs() < 6, (ordinary / step).round() * step, x)
    assert torch.allclose(linear(weight, None, torch.float32)(x), rounded @ weight.widened(torch.float32).T, rtol=1e-4)


def test_layers_side_by_side() -> None:
    torch.manual_seed(0)
    groups = torch.arange(8) // 4
    one, two = (Grouped(packed(torch.randint(0, 16, (n, 8))), torch.rand(n, 2), None, groups, None) for n in (3, 5))
    whole = torch.cat([one.widened(torch.float32), two.widened(torch.float32)])
    both = joined([one, two], torch.float32)
    assert isinstance(both, Grouped) and torch.equal(both.widened(torch.float32), whole)
    others = (
        replace(two, groups=groups.flip(0)), replace(two, offset=torch.ones(5, 2)), Dense(torch.randn(5, 8)),
        replace(two, book=torch.randn(16)),
    )  # fmt: skip
    for other in others:
        mixed = joined([one, other], torch.float32)
        assert isinstance(mixed, Dense)
        assert torch.equal(mixed.weight, torch.cat([one.widened(torch.float32), other.widened(torch.float32)]))


def test_every_format_has_somebody_who_multiplies_it() -> None:
    for kind in (Dense, Int8, Int8Outlier, Grouped, GroupedByteInputs):
        for plain in (True, False):
            assert table.best("linear", replace(needs(plain), format=kind)).library in ("torch", "native")
