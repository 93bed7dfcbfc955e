"""The kernels that choose a token, against plain torch."""

from __future__ import annotations

import pytest
import torch

from tests.triton_checks import check_sample, drawn
from tgi_server.kernels.triton import sampling

PART = 2 * sampling.BLOCK


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PART", PART)


def test_greedy_over_several_parts() -> None:
    check_sample(torch.randn(2, 2 * PART + 77) * 3, drawn([None] * 2))


def test_drawn_over_several_parts_beside_greedy() -> None:
    check_sample(torch.randn(5, PART + 5) * 3, drawn([7, None, 2**62, 0, 2**64 - 1]))


def test_draws_of_a_small_vocabulary() -> None:
    check_sample(torch.randn(12, 50), drawn(range(12)))


def test_the_first_of_equals() -> None:
    logits = torch.zeros(2, PART + 300)
    logits[0, [40, 41, 1500, PART + 3]] = 1.0
    logits[1, PART + 3 :] = 1.0
    check_sample(logits, drawn([None] * 2))


def test_most_tokens_impossible() -> None:
    logits = torch.full((3, PART + 300), -torch.inf)
    logits[0, [5, 9]] = torch.tensor([1.0, 2.0])
    logits[1, PART + 299] = -3.0
    logits[2, [0, 2000, PART]] = torch.tensor([0.0, -29.0, -31.0])
    check_sample(logits, drawn([1, 2, None]))


def test_rows_that_lie_apart() -> None:
    check_sample(torch.randn(3, 100)[:, :90], drawn([None, 3, None]))
