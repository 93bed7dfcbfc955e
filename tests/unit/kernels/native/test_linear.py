"""The compiled product against torch's, for sizes that fill panels and tiles and sizes that do not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tgi_server.kernels import plain
from tgi_server.kernels.formats import Dense, Int8
from tgi_server.kernels.native import build
from tgi_server.kernels.native.linear import NativeLinear, head, linear, pack
from tgi_server.kernels.streamed import Streamed

ROWS = (1, 2, 3, 7, 12, 13, 16, 17, 26, 32, 33, 49, 60, 97)


@pytest.fixture(params=["vectors", "tiles"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Products by vectors, or with tile registers, which are plain C++ where the processor has none."""
    if request.param == "tiles" and build.tiles() is not None:
        monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-DEMULATED_TILES"])
    build.use_tiles(request.param == "tiles")
    assert (build.tiles() is None) == (request.param == "tiles")
    yield str(request.param)
    build.use_tiles(True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", ["same", "int8"])
@pytest.mark.parametrize(("inner", "outer"), [(64, 32), (66, 33), (10, 1), (130, 100), (576, 70), (96, 128), (2, 64)])
@pytest.mark.usefixtures("way")
def test_products(dtype: torch.dtype, stored: str, inner: int, outer: int) -> None:
    torch.manual_seed(0)
    bias = torch.randn(outer).to(dtype)
    if stored == "int8":
        weight, scale = torch.randint(-127, 128, (outer, inner), dtype=torch.int8), torch.rand(outer) / 100
    else:
        weight, scale = torch.randn(outer, inner).to(dtype), None
    kept = Dense(weight) if scale is None else Int8(weight, scale)
    layer, plain = NativeLinear(kept, dtype, bias), NativeLinear(kept, dtype)
    for rows in ROWS:
        x = torch.randn(rows, inner).to(dtype)
        exact = x.double() @ weight.double().T * (1 if scale is None else scale.double())
        tolerance = 1e-5 if dtype == torch.float32 else 2**-7
        for got, expected in ((layer(x), exact + bias.double()), (plain(x), exact)):
            assert got.dtype == dtype
            assert torch.allclose(got.double(), expected, rtol=tolerance, atol=tolerance * 4)


@pytest.mark.usefixtures("way")
def test_logits_are_float32_sums() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(50, 64).bfloat16(), torch.randn(5, 64).bfloat16()
    got = NativeLinear(Dense(weight), torch.bfloat16, result=torch.float32)(x)
    assert torch.allclose(got, x.float() @ weight.float().T, atol=1e-4)


@pytest.mark.usefixtures("way")
def test_a_row_does_not_depend_on_its_company() -> None:
    """Batches of other sizes go through tiles of other sizes; the sums of a row must not change with them much."""
    torch.manual_seed(0)
    weight, x = torch.randn(96, 576).bfloat16(), torch.randn(40, 576).bfloat16()
    layer = NativeLinear(Dense(weight), torch.bfloat16, result=torch.float32)
    whole = layer(x)
    for rows in ROWS[:-2]:
        assert torch.allclose(layer(x[:rows]), whole[:rows], atol=1e-4)


@pytest.mark.parametrize("stored", ["same", "int8"])
def test_float32_does_not_depend_on_company_at_all(stored: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 576) if stored == "same" else torch.randint(-127, 128, (96, 576), dtype=torch.int8)
    layer = NativeLinear(Dense(weight) if stored == "same" else Int8(weight, torch.rand(96)), torch.float32)
    x = torch.randn(200, 576)
    whole = layer(x)
    for rows in ROWS:
        assert torch.equal(layer(x[rows : 2 * rows]), whole[rows : 2 * rows])


@pytest.mark.parametrize("stored", ["same", "int8"])
@pytest.mark.parametrize("inner", [64, 8200])
@pytest.mark.parametrize("rows", [64, 97, 130, 177])
def test_long_prompts(way: str, stored: str, inner: int, rows: int) -> None:
    """Of wide rows only a few stay near the processor at a time."""
    torch.manual_seed(0)
    x = torch.randn(rows, inner).bfloat16()
    weight = torch.randn(70, inner).bfloat16() if stored == "same" else torch.randint(-127, 128, (70, inner)).char()
    kept = Dense(weight) if stored == "same" else Int8(weight, torch.ones(70))
    layer = NativeLinear(kept, torch.bfloat16)
    got = layer(x)
    exact = x.double() @ weight.double().T
    assert torch.allclose(got.double(), exact, rtol=2**-7, atol=exact.abs().mean().item() * 2**-7)
    if way == "tiles":  # whose sums of a row know nothing of the others
        assert torch.equal(got, torch.cat([layer(part) for part in torch.split(x, 13)]))


def test_layers_of_a_format() -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(3, 64).bfloat16(), torch.randn(40).bfloat16()
    dense, small = (
        Dense(torch.randn(40, 64).bfloat16()),
        Int8(torch.randint(-127, 128, (40, 64)).char(), torch.rand(40) / 100),
    )
    for weight in (dense, small):
        got, expected = (make(weight, bias, x.dtype)(x) for make in (linear, plain.linear))
        assert got.dtype == expected.dtype
        assert torch.allclose(got.float(), expected.float(), rtol=2e-2, atol=0.1)
    assert torch.allclose(head(dense.weight)(x), x.float() @ dense.weight.float().T, atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="7 inputs"):
        pack(Streamed.of(Dense(torch.zeros(4, 7))), torch.bfloat16)
    layer = NativeLinear(Dense(torch.zeros(4, 8)), torch.float32)
    for x in (torch.zeros(1, 6), torch.zeros(1, 8).bfloat16()):
        with pytest.raises(ValueError, match="for a layer of 8"):
            layer(x)
