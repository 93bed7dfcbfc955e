from __future__ import annotations

import pytest
import torch

from tests.experts import mixtures
from tests.triton_checks import check_experts
from tests.weights import KINDS, Codes
from tgi_server.kernels.experts import Mixture, routed
from tgi_server.kernels.operations import Activation
from tgi_server.kernels.triton import routing


@pytest.mark.parametrize("mixture", mixtures(), ids=str)
def test_mixtures(mixture: Mixture) -> None:
    check_experts(torch.float32, 4, mixture, 66, 34)


@pytest.mark.parametrize("bias", [False, True])
def test_many_rows_of_8_bits(bias: bool) -> None:
    """So many that an expert has a second, larger tile."""
    check_experts(torch.float32, 70, Mixture(2, 2, Activation.SILU), 40, 36, int8=True, bias=bias)


@pytest.mark.parametrize("codes", [KINDS[4], KINDS[5], KINDS[8]], ids=str)
def test_codes_in_groups(codes: Codes) -> None:
    check_experts(torch.float32, 3, Mixture(3, 2, Activation.SILU), 64, 72, codes=codes)


def test_many_rows_of_codes() -> None:
    """So many that an expert has a second, larger tile."""
    check_experts(torch.bfloat16, 70, Mixture(2, 2, Activation.SILU), 64, 40, codes=KINDS[7])


def test_half_precision() -> None:
    check_experts(torch.float16, 3, Mixture(6, 2, Activation.SILU, over_all=True), 64, 48)


def test_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal scores the first; scores that are no numbers still choose experts that exist."""
    monkeypatch.setattr(routing, "BLOCK", 64)
    mixture = Mixture(3, 2, Activation.SILU)
    scores = torch.tensor([[1.0, 2.0, 2.0], [torch.nan] * 3, [torch.nan, 1.0, 0.0]] * 30)
    chosen = routing.choose(scores, mixture, None)
    ids = chosen.places.view(-1, 2)
    starts = chosen.starts.tolist()
    assert starts == [0, 30, 120, 180]
    numbers = torch.bucketize(ids, chosen.starts[1:-1].contiguous(), right=True)
    assert [row.tolist() for row in numbers[:3]] == [[1, 2], [0, 1], [1, 2]]
    assert torch.equal(chosen.order[chosen.places.long()], torch.arange(180, dtype=torch.int32))
    assert torch.allclose(chosen.weights[0], routed(scores[:1], mixture, None)[0][0])
