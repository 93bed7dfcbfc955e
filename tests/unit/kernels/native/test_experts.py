"""The compiled mixture of experts against plain torch: few and many rows, every way to weigh, 8 bits, tiles."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.experts import close, made, mixtures
from tgi_server.kernels import plain
from tgi_server.kernels.experts import Mixture, routed
from tgi_server.kernels.experts import experts as declared
from tgi_server.kernels.native import build
from tgi_server.kernels.native.calls import record
from tgi_server.kernels.native.experts import choose, experts
from tgi_server.kernels.operations import Activation

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture(params=["vectors", "tiles"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Products by vectors, or with tile registers, which are plain C++ where the processor has none."""
    if request.param == "tiles" and build.tiles() is not None:
        monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-DEMULATED_TILES"])
    build.use_tiles(request.param == "tiles")
    yield str(request.param)
    build.use_tiles(True)


@DTYPES
@pytest.mark.parametrize("int8", [False, True], ids=["dense", "int8"])
@pytest.mark.parametrize("mixture", mixtures(), ids=str)
@pytest.mark.usefixtures("way")
def test_mixtures(dtype: torch.dtype, int8: bool, mixture: Mixture) -> None:
    """Of no expert, one row, some and more than a tile's rows; sizes that fill panels and sizes that do not."""
    torch.manual_seed(0)
    for hidden, inner in ((64, 32), (66, 34)):
        layers, bias = made(mixture, hidden, inner, dtype, int8)
        ours, theirs = (
            make(layers, mixture, bias, dtype) for make in (experts, partial(declared, linear=plain.linear))
        )
        for rows in (1, 5, 19, 130):
            x = torch.randn(rows, hidden).to(dtype)
            scores = torch.randn(rows, mixture.count + 1)
            for columns, shared in ((mixture.count, None), (mixture.count, x), (mixture.count + 1, x)):
                given: tuple[Any, ...] = (x, scores[:, :columns].contiguous(), shared)
                assert close(ours(*given), theirs(*given), dtype)


def test_choices() -> None:
    """Of equal scores the first; scores that are no numbers still choose experts that exist."""
    mixture = Mixture(4, 3, Activation.SILU)
    scores = torch.tensor([[1.0, 2.0, 2.0, 1.0], [0.0, -torch.inf, 5.0, -torch.inf], [torch.nan] * 4])
    chosen, rows = choose(torch.tensor([[1.0], [2.0], [3.0]]), scores, mixture, None)
    assert chosen.experts[0].tolist() == [1, 2, 0]
    assert chosen.experts[1, :2].tolist() == [2, 0]
    assert sorted(chosen.experts[2].tolist()) == [0, 1, 2]
    weights, ids = routed(scores[:1], mixture, None)
    assert torch.equal(ids, chosen.experts[:1]) and torch.allclose(weights, chosen.weights[:1])
    order = chosen.experts.flatten().argsort(stable=True)
    assert rows.flatten().tolist() == (order // 3 + 1).tolist()
    counts = [chosen.experts.flatten().tolist().count(expert) for expert in range(4)]
    assert chosen.starts.diff().tolist() == counts
    assert chosen.active.tolist()[: 1 + chosen.active[0]] == [chosen.active[0], *(e for e in range(4) if counts[e])]


def test_a_recording_routes_again() -> None:
    """What is chosen is found out whenever it is run, not when it is recorded."""
    torch.manual_seed(0)
    mixture = Mixture(6, 2, Activation.SILU)
    layers, bias = made(mixture, 32, 16, torch.float32, False)
    ours, theirs = (
        experts(layers, mixture, bias, torch.float32),
        declared(layers, mixture, bias, torch.float32, plain.linear),
    )
    x, scores = torch.zeros(3, 32), torch.zeros(3, 6)
    with record(strict=True) as recording:
        result: Tensor = ours(x, scores, None)
    for _ in range(3):
        x.normal_()
        scores.normal_()
        recording.run()
        assert close(result, theirs(x, scores, None), torch.float32)
