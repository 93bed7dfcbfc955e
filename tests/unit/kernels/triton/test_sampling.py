"""The kernels that choose a token, against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.triton_checks import check_sample, drawn
from tgi_server.kernels.triton import filters, sampling
from tgi_server.types import SamplingParams

PART = 2 * sampling.BLOCK


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PART", PART)
    monkeypatch.setattr(filters, "BLOCK", 256)


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


FILTERS: list[dict[str, Any]] = [
    {"temperature": 0.7}, {"top_k": 5}, {"top_k": 5000}, {"top_p": 0.9}, {"typical_p": 0.8}, {"min_p": 0.1},
    {"temperature": 1e-5}, {"top_k": 40, "top_p": 0.8, "typical_p": 0.7, "min_p": 0.01, "temperature": 1.5},
]  # fmt: skip


def test_filters_of_each_row() -> None:
    """Beside rows that have none, and some that are guided."""
    params = [SamplingParams(do_sample=True, seed=seed, **values) for seed, values in enumerate([*FILTERS, {}])]
    logits = torch.randn(len(params), filters.BLOCK + 77) * 3
    check_sample(logits.round(), params)
    check_sample(logits, params, {row: torch.rand(logits.shape[1]) < 0.3 for row in (1, 4, 8)})


def test_what_changes_single_scores_comes_first() -> None:
    changes: dict[str, Any] = {"repetition_penalty": 1.4, "frequency_penalty": 0.3, "logit_bias": {7: 3.0, 9: -1.0}}
    params = [SamplingParams(top_p=0.8, watermark=row % 2 == 0, seed=row, **changes) for row in range(4)]
    check_sample(torch.randn(4, 90) * 2, params)
