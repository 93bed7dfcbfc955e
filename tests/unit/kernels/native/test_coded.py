"""Compiled products with codes in groups against torch's: every way to group, offsets, books, inputs in steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.coded import exact, grouped, side_by_side
from tests.experts import made
from tgi_server.kernels import plain
from tgi_server.kernels.experts import Expert, Mixture
from tgi_server.kernels.experts import experts as declared
from tgi_server.kernels.formats import Format, Grouped, GroupedByteInputs, Int8Outlier, row_tensors
from tgi_server.kernels.native import build
from tgi_server.kernels.native.calls import record
from tgi_server.kernels.native.experts import experts
from tgi_server.kernels.native.linear import linear
from tgi_server.kernels.operations import Activation

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
KINDS = pytest.mark.parametrize("kind", [Grouped, GroupedByteInputs])
ROWS = (1, 2, 3, 4, 5, 8, 12, 13, 24, 25, 40, 130)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


def far(got: Tensor, right: Tensor) -> float:
    """The largest distance of a row, as part of its length, or of one of numbers around 1."""
    length = right.norm(dim=1).clamp(min=right.shape[1] ** 0.5)
    return float(((got.double() - right).norm(dim=1) / length).max())


@pytest.fixture(params=["vectors", "tiles"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Products by vectors, or with tile registers, which are plain C++ where the processor has none."""
    if request.param == "tiles" and build.tiles() is not None:
        monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-DEMULATED_TILES"])
    build.use_tiles(request.param == "tiles")
    yield str(request.param)
    build.use_tiles(True)


@DTYPES
@KINDS
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("bits", "offset", "book"),
    [(4, False, False), (4, True, False), (4, False, True), (4, True, True), (8, False, False), (8, True, False)],
)
def test_products(dtype: torch.dtype, kind: type[Grouped], bits: int, offset: bool, book: bool) -> None:
    torch.manual_seed(0)
    uneven = torch.tensor([0] * 12 + [1] * 30 + [2] * 18 + [4] * 4)  # of a rank that does not see group 3
    ways = [
        (64, side_by_side(96, 32)),
        (70, torch.randperm(126) % 4),
        (33, side_by_side(130, -1)),
        (5, uneven),
        (3, side_by_side(1024, 128)),  # rows that are copied where there are many
    ]
    for outputs, groups in ways:
        weight, bias = grouped(kind, outputs, groups, bits, offset, book), torch.randn(outputs).to(dtype)
        layer = linear(weight, bias, dtype)
        for rows in ROWS:
            x = torch.randn(rows, len(groups)).to(dtype)
            got = layer(x)
            assert got.dtype == dtype
            assert far(got, exact(weight, x) + bias.double()) < TOLERANCE[dtype]


@DTYPES
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("threshold", [1.5, 6.0, torch.inf])
def test_outliers(dtype: torch.dtype, threshold: float) -> None:
    torch.manual_seed(0)
    steps = torch.randint(-127, 128, (70, 130), dtype=torch.int8)
    weight = Int8Outlier(steps, torch.rand(70) + 0.1, threshold)
    layer = linear(weight, None, dtype)
    for rows in ROWS:
        x = torch.randn(rows, 130).to(dtype)
        assert far(layer(x), exact(weight, x)) < TOLERANCE[dtype]


@KINDS
def test_a_recorded_step(kind: type[Grouped]) -> None:
    torch.manual_seed(0)
    weight = grouped(kind, 64, torch.randperm(96) % 3)
    layer, x = linear(weight, None, torch.bfloat16), torch.zeros(3, 96).bfloat16()
    with record(strict=True) as recording:
        result = layer(x)
    for _ in range(2):
        x.normal_()
        recording.run()
        assert far(result, exact(weight, x)) < 2**-7


@DTYPES
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", [Grouped, GroupedByteInputs, Int8Outlier])
def test_experts(dtype: torch.dtype, kind: type[Grouped] | type[Int8Outlier]) -> None:
    """Each with groups of its own; of one row, some, and more than a tile's."""
    torch.manual_seed(0)

    def coded(weight: Format, order: bool) -> Format:
        outputs, inputs = len(row_tensors(weight)["weight"]), weight.inputs
        if issubclass(kind, Int8Outlier):
            steps = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
            return Int8Outlier(steps, (torch.rand(outputs) + 0.5) / (64 * inputs**0.5), 2.0)
        groups = side_by_side(inputs, 32)
        return grouped(kind, outputs, groups[torch.randperm(inputs)] if order else groups, offset=order)

    mixture = Mixture(6, 3, Activation.SILU)
    layers, bias = made(mixture, 64, 40, dtype, False)
    for order in (False, True):
        own = [Expert(coded(e.inputs, order), coded(e.down, order), e.inputs_bias, e.down_bias) for e in layers]
        ours = experts(own, mixture, bias, dtype)
        theirs = declared(own, mixture, bias, dtype, plain.linear)
        for rows in (1, 5, 70):
            x, scores = torch.randn(rows, 64).to(dtype), torch.randn(rows, mixture.count)
            got, right = ours(x, scores, None), theirs(x, scores, None)
            assert got.dtype == dtype
            assert far(got, right.double()) < (1e-5 if dtype == torch.float32 and kind is Grouped else 2e-2)
