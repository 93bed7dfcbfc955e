"""The kernels that choose a token, against the sampler's own torch."""

from __future__ import annotations

import torch

from tests.triton_checks import check_choice
from tgi_server.triton.sampling import PART
from tgi_server.types import SamplingParams

GREEDY = SamplingParams()


def drawing(seed: int) -> SamplingParams:
    return SamplingParams(do_sample=True, seed=seed)


def test_greedy_over_several_parts() -> None:
    check_choice(torch.randn(3, 2 * PART + 77) * 3, [GREEDY] * 3)


def test_drawn_over_several_parts_beside_greedy() -> None:
    check_choice(torch.randn(4, PART + 5) * 3, [drawing(7), GREEDY, drawing(2**62), drawing(0)])


def test_draws_of_a_small_vocabulary() -> None:
    check_choice(torch.randn(30, 50), [drawing(seed) for seed in range(30)])


def test_the_first_of_equals() -> None:
    logits = torch.zeros(2, PART + 300)
    logits[0, [40, 41, 1500, PART + 3]] = 1.0
    logits[1, PART + 3 :] = 1.0
    check_choice(logits, [GREEDY] * 2)


def test_most_tokens_impossible() -> None:
    logits = torch.full((3, PART + 300), -torch.inf)
    logits[0, [5, 9]] = torch.tensor([1.0, 2.0])
    logits[1, PART + 299] = -3.0
    logits[2, [0, 2000, PART]] = torch.tensor([0.0, -29.0, -31.0])
    check_choice(logits, [drawing(1), drawing(2), GREEDY])


def test_rows_that_lie_apart() -> None:
    check_choice(torch.randn(3, 100)[:, :90], [GREEDY, drawing(3), GREEDY])
