"""The operation `sample`: plain torch against transformers' processors, the compiled kernel against plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as theirs

from tests.sampling import rows_of
from tgi_server.kernels.native import operations as native
from tgi_server.kernels.sampling import SamplingRows, sample
from tgi_server.kernels.sampling import green as favoured
from tgi_server.shard.sampler import Watermark
from tgi_server.types import SamplingParams

Sample = Callable[[Tensor, SamplingRows], tuple[Tensor, Tensor, Tensor]]
BOTH: dict[str, Sample] = {"plain": sample, "native": native.sample}
WAYS = pytest.mark.parametrize("way", BOTH)
SIZES = [1, 2, 3, 15, 16, 17, 63, 64, 65, 100, 1000, 1001, 4099]
TEXT = [3, 5, 5, 8, 13, 3, 21]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def their_penalty(p: float) -> Any:
    return theirs.RepetitionPenaltyLogitsProcessor(p)


PROCESSORS: list[tuple[dict[str, Any], Any]] = [
    *(({"temperature": t}, theirs.TemperatureLogitsWarper(t)) for t in (0.3, 0.99, 7.0)),
    *(({"top_k": k}, theirs.TopKLogitsWarper(k)) for k in (1, 2, 50, 999, 5000)),
    *(({"top_p": p}, theirs.TopPLogitsWarper(p)) for p in (0.01, 0.5, 0.9, 0.99)),
    *(({"typical_p": p}, theirs.TypicalLogitsWarper(p)) for p in (0.1, 0.5, 0.95)),
    *(({"min_p": p}, theirs.MinPLogitsWarper(p)) for p in (0.02, 0.5, 1.0)),
    *(({"repetition_penalty": p}, their_penalty(p)) for p in (0.5, 1.3, 10.0)),
]


def processed(way: str, logits: Tensor, params: list[SamplingParams], **more: Any) -> Tensor:
    """Log-probabilities by which tokens are chosen, after the text TEXT."""
    scores = logits.clone()
    _, _, normalisers = BOTH[way](scores, rows_of(params, [TEXT] * len(params), **more))
    return scores - normalisers.unsqueeze(1)


def alike(got: Tensor, expected: Tensor) -> bool:
    return torch.equal(got.isfinite(), expected.isfinite()) and torch.allclose(got, expected, rtol=1e-5, atol=2e-5)


@WAYS
@pytest.mark.parametrize(("params", "processor"), PROCESSORS, ids=[str(params) for params, _ in PROCESSORS])
def test_each_processor_is_that_of_transformers(way: str, params: dict[str, Any], processor: Any) -> None:
    logits = torch.randn(4, 1003) * torch.tensor([0.3, 1.0, 3.0, 8.0]).unsqueeze(1)
    expected = processor(torch.tensor([TEXT] * 4), logits.clone()).log_softmax(-1)
    together = processed(way, logits, [SamplingParams(do_sample=True, **params)] * 4)
    assert alike(together, expected)
    for row in range(4):
        alone = processed(way, logits[row : row + 1], [SamplingParams(do_sample=True, **params)])
        assert torch.equal(alone[0], together[row])


@WAYS
def test_each_row_has_its_own_parameters(way: str) -> None:
    logits = torch.randn(len(PROCESSORS), 1003) * 3
    expected = [p(torch.tensor([TEXT]), row[None].clone())[0] for (_, p), row in zip(PROCESSORS, logits, strict=True)]
    got = processed(way, logits, [SamplingParams(do_sample=True, **params) for params, _ in PROCESSORS])
    assert alike(got, torch.stack(expected).log_softmax(-1))


@WAYS
def test_one_after_the_other_as_transformers_does_it(way: str) -> None:
    """What is left after one is all that the next one sees."""
    params = SamplingParams(
        do_sample=True, repetition_penalty=1.5, temperature=0.8, top_k=400, top_p=0.95, typical_p=0.9, min_p=0.01
    )
    warpers = [
        their_penalty(1.5), theirs.TemperatureLogitsWarper(0.8), theirs.TopKLogitsWarper(400),
        theirs.TopPLogitsWarper(0.95), theirs.TypicalLogitsWarper(0.9), theirs.MinPLogitsWarper(0.01),
    ]  # fmt: skip
    logits = torch.randn(8, 2001) * 3
    expected = logits.clone()
    for warper in warpers:
        expected = warper(torch.tensor([TEXT] * 8), expected)
    got = processed(way, logits, [params] * 8)
    assert alike(got, expected.log_softmax(-1))
    assert (got.isfinite().sum(dim=1) > 3).all()


@WAYS
def test_counts_of_what_was_generated_are_subtracted(way: str) -> None:
    logits = torch.randn(1, 100)
    params = SamplingParams(frequency_penalty=0.3, presence_penalty=-0.7, do_sample=True)
    got = processed(way, logits, [params], prompts=[2])
    expected = logits.clone()
    for id, count in ((5, 1), (8, 1), (13, 1), (3, 1), (21, 1)):
        expected[0, id] -= 0.3 * count - 0.7
    assert alike(got, expected.log_softmax(-1))
    expected[0, [5, 3]] -= 0.3
    assert alike(processed(way, logits, [params], prompts=[0]), expected.log_softmax(-1)), "3 and 5 came twice"


@WAYS
def test_green_tokens_are_favoured(way: str) -> None:
    logits, mark = torch.randn(3, 1003), Watermark(0.3, 1.5)
    got = processed(way, logits, [SamplingParams(watermark=row != 1) for row in range(3)], watermark=mark)
    expected = logits.clone()
    green = favoured(torch.tensor([TEXT[-1]]), torch.arange(1003), mark.gamma)
    expected[0, green] += 1.5
    expected[2, green] += 1.5
    assert alike(got, expected.log_softmax(-1))


@WAYS
def test_biases_and_masks_are_of_their_own_rows(way: str) -> None:
    logits, allowed = torch.randn(4, 77), torch.rand(2, 77) < 0.4
    params = [SamplingParams(logit_bias=bias) for bias in ({3: 1.0, 70: -2.0}, {}, {76: 100.0}, {})]
    expected = logits.clone()
    expected[0, 3] += 1.0
    expected[0, 70] -= 2.0
    expected[2, 76] += 100.0
    expected[3, ~allowed[0]] = expected[0, ~allowed[1]] = -torch.inf
    got = processed(way, logits, params, allowed={3: allowed[0], 0: allowed[1]})
    assert alike(got, expected.log_softmax(-1))


@WAYS
@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"top_k": 2}, [0, 1, 2, 3]), ({"top_k": 1}, [0]), ({"top_p": 0.45}, [0, 1, 2, 3]), ({"top_p": 0.3}, [0]),
        ({"min_p": 0.5}, [0, 1, 2, 3]), ({"typical_p": 0.01}, [1, 2, 3]),
    ],
    ids=str,
)  # fmt: skip
def test_equals_stay_together(way: str, params: dict[str, Any], kept: list[int]) -> None:
    logits = torch.tensor([[0.4, 0.2, 0.2, 0.2, 0.0001]]).log()
    got = processed(way, logits, [SamplingParams(do_sample=True, **params)])
    assert got[0].isfinite().nonzero().squeeze(1).tolist() == kept


@WAYS
@pytest.mark.parametrize(
    "params",
    [
        {}, {"temperature": 1.7}, {"top_k": 5}, {"top_p": 0.8}, {"typical_p": 0.7}, {"min_p": 0.1},
        {"top_k": 6, "top_p": 0.9},
    ],
    ids=str,
)  # fmt: skip
def test_draws_follow_the_probabilities(way: str, params: dict[str, Any]) -> None:
    """By Pearson's chi-square test, which a right sampler fails once in 10000 times; seeds are fixed."""
    logits, many = torch.randn(12, generator=torch.Generator().manual_seed(3)) * 1.5, 20000
    rows = rows_of([SamplingParams(do_sample=True, seed=seed, **params) for seed in range(many)], [[7]] * many)
    scores = logits.repeat(many, 1)
    tokens, _, normalisers = BOTH[way](scores, rows)
    expected = (scores[0] - normalisers[0]).exp().numpy() * many
    counts, possible = np.bincount(tokens.numpy(), minlength=12), expected > 0
    assert not counts[~possible].any()
    degrees = int(possible.sum()) - 1
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert statistic < degrees + 4 * math.sqrt(2 * degrees) + 8


def any_params(draw: np.random.Generator, size: int) -> SamplingParams:
    """Some of all parameters, with tame values and wild ones."""
    values: dict[str, list[Any]] = {
        "temperature": [1e-6, 0.5, 0.7, 1.3, 100.0],
        "top_k": [1, 2, 5, 50, max(1, size // 3), size, size + 10],
        "top_p": [1e-6, 0.1, 0.5, 0.95, 0.999, draw.random()],
        "typical_p": [1e-3, 0.1, 0.5, 0.95, draw.random()],
        "min_p": [1e-6, 0.1, 0.9, 1.0, draw.random()],
        "repetition_penalty": [0.01, 0.5, 1.2, 100.0],
        "frequency_penalty": [-2.0, 0.5, 2.0],
        "presence_penalty": [-2.0, 0.5, 2.0],
        "watermark": [True],
        "logit_bias": [{int(id): float(draw.normal() * 9) for id in draw.integers(0, size, 3)}],
        "do_sample": [True],
    }
    chosen = {name: some[draw.integers(len(some))] for name, some in values.items() if draw.random() < 0.3}
    return SamplingParams(**chosen, seed=int(draw.integers(2**63)) * 2 + 1)


@pytest.mark.parametrize("size", SIZES)
def test_the_compiled_kernel_does_as_plain_torch(size: int) -> None:
    draw, rows = np.random.default_rng(size), 48
    for spread in (0.1, 1.0, 3.0, 10.0):
        wide = torch.from_numpy(draw.standard_normal((rows, size + 5)).astype(np.float32) * spread)
        logits = wide.round() if spread == 3.0 else wide  # with many equals
        params = [any_params(draw, size) for _ in range(rows)]
        texts = [draw.integers(0, size, draw.integers(1, 40)).tolist() for _ in range(rows)]
        allowed = {row: torch.from_numpy(draw.random(size) < draw.random()) for row in range(0, rows, 5)}
        for mask in allowed.values():
            mask[draw.integers(size)] = True
        how = rows_of(params, texts, [int(draw.integers(0, len(text) + 1)) for text in texts], allowed)
        mine, declared = logits.clone()[:, :size], logits.clone()[:, :size]
        got, expected = native.sample(mine, how), sample(declared, how)
        assert got[0].tolist() == expected[0].tolist()
        for ours, plain in ((got[1], expected[1]), (got[2], expected[2]), (mine, declared)):
            assert torch.allclose(ours, plain, rtol=1e-5, atol=1e-4)


def test_the_first_of_equal_scores_is_the_best() -> None:
    scores = torch.zeros(3, 170)
    scores[0, [140, 20, 169]] = scores[1, [169, 168]] = scores[2, [133, 117]] = 2.0
    for way in BOTH.values():
        assert way(scores.clone(), rows_of([SamplingParams()] * 3, [[1]] * 3))[0].tolist() == [20, 168, 117]


def test_scores_that_do_not_lie_side_by_side_are_refused() -> None:
    with pytest.raises(ValueError, match="side by side"):
        native.sample(torch.zeros(5, 2).T, rows_of([SamplingParams()] * 2, [[1]] * 2))
