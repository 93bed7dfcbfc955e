"""Marked texts can be told from others, and by nothing but their tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.sampling import rows_of
from tgi_server.config.schema import WatermarkOptions
from tgi_server.kernels.sampling import green as favoured
from tgi_server.kernels.sampling import sample
from tgi_server.shard.sampler import Watermark, choose
from tgi_server.types import SamplingParams

VOCABULARY, LENGTH = 500, 200


def write(watermark: Watermark, marked: bool, beside: int = 0, prompt: int = 7) -> list[int]:
    """A text by a model whose scores are noise; `beside` others are in the same batch."""
    noise = torch.Generator().manual_seed(1)
    params = [SamplingParams(do_sample=True, seed=3, watermark=marked)]
    params += [SamplingParams(do_sample=True, seed=90 + i, watermark=i % 2 == 0) for i in range(beside)]
    texts = [[prompt + row] for row in range(len(params))]

    for _ in range(LENGTH):
        logits = torch.randn(VOCABULARY, generator=noise).repeat(len(params), 1)
        choice = choose(logits, rows_of(params, texts, watermark=watermark), sample)
        for text, token in zip(texts, choice.tokens.tolist(), strict=True):
            text.append(token)
    return texts[0]


def z_score(watermark: Watermark, text: list[int]) -> float:
    """How many standard deviations the green tokens are more than chance has it (equation 3 of the paper)."""
    ids = torch.tensor(text)
    green = int(favoured(ids[:-1], ids[1:], watermark.gamma).sum())
    n, gamma = len(text) - 1, watermark.gamma
    return (green - gamma * n) / float(np.sqrt(n * gamma * (1 - gamma)))


@pytest.mark.parametrize("gamma", [0.25, 0.5, 0.75])
def test_a_marked_text_is_detected_and_no_other(gamma: float) -> None:
    watermark = Watermark(gamma, 2.0)
    assert z_score(watermark, write(watermark, marked=True)) > 5
    assert abs(z_score(watermark, write(watermark, marked=False))) < 3
    assert abs(z_score(Watermark(gamma, 0.0), write(Watermark(gamma, 0.0), marked=True))) < 3


def test_a_larger_delta_marks_more() -> None:
    scores = [z_score(Watermark(), write(Watermark(delta=delta), marked=True)) for delta in (0.5, 2.0, 8.0)]
    assert scores == sorted(scores) and scores[2] > 13, "nearly all of 200 tokens are green: 14.1 at most"


def test_company_makes_no_difference() -> None:
    alone = write(Watermark(), marked=True)
    assert write(Watermark(), marked=True, beside=3) == alone
    assert write(Watermark(), marked=False, beside=3) == write(Watermark(), marked=False)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_green_is_a_part_of_the_vocabulary_that_differs_with_the_token_before(gamma: float) -> None:
    ids = torch.arange(50000)
    green = favoured(torch.tensor([[1], [2], [49999]]), ids, gamma)
    assert torch.allclose(green.double().mean(dim=1), torch.full((3,), gamma, dtype=torch.float64), atol=0.01)
    both = (green[0] & green[1]).double().mean()
    assert abs(both - gamma**2) < 0.01, "independent of each other"
    assert torch.equal(favoured(torch.full_like(ids, 2), ids, gamma), green[1])


def test_greedy_choices_are_marked_too() -> None:
    logits = torch.zeros(1, 1000)
    choice = choose(logits, rows_of([SamplingParams(watermark=True)], [[5]], watermark=Watermark(0.1, 1.0)), sample)
    assert favoured(torch.tensor([5]), choice.tokens, 0.1).all()


def test_what_the_options_leave_out() -> None:
    assert Watermark.of(WatermarkOptions()) == Watermark(0.5, 2.0)
    assert Watermark.of(WatermarkOptions(watermark_gamma=0.3, watermark_delta=0.0)) == Watermark(0.3, 0.0)
