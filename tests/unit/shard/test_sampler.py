from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.sampling import rows_of
from tgi_server.kernels.sampling import sample, uniforms
from tgi_server.rope.table import IntArray
from tgi_server.shard.sampler import MOST_TIES, choose, top_of_rows, top_tokens
from tgi_server.types import SamplingParams

NO_HISTORY = np.array([], np.int64)


def pick(logits: Tensor, *params: SamplingParams, history: IntArray = NO_HISTORY, prompt_length: int = 0) -> list[int]:
    scores = logits.clone() if logits.dim() == 2 else logits.clone().repeat(len(params), 1)
    choice = choose(scores, rows_of(params, [history] * len(params), [prompt_length] * len(params)), sample)
    tokens: list[int] = choice.tokens.tolist()
    return tokens


def possible(logits: Tensor, params: SamplingParams) -> set[int]:
    """Every token that 400 seeds choose."""
    many = [
        SamplingParams(**{name: getattr(params, name) for name in params.__slots__} | {"seed": seed, "do_sample": True})
        for seed in range(400)
    ]
    return set(pick(logits, *many))


def test_greedy_picks_the_best_and_reports_its_logprob() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 0.0]])
    choice = choose(logits.clone(), rows_of([SamplingParams()] * 2, [NO_HISTORY] * 2), sample)
    assert choice.tokens.tolist() == [1, 0]
    assert torch.allclose(choice.logprobs, logits.log_softmax(-1)[[0, 1], [1, 0]])


def test_top_k_keeps_ties_with_the_last() -> None:
    logits = torch.tensor([3.0, 2.0, 2.0, 1.0, 0.0])
    assert possible(logits, SamplingParams(top_k=2)) == {0, 1, 2}
    assert possible(logits, SamplingParams(top_k=1)) == {0}
    assert possible(logits, SamplingParams(top_k=99)) == {0, 1, 2, 3, 4}


def test_top_p_keeps_what_reaches_the_mass() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert possible(logits, SamplingParams(top_p=0.4)) == {0}
    assert possible(logits, SamplingParams(top_p=0.7)) == {0, 1}
    assert possible(logits, SamplingParams(top_p=0.9)) == {0, 1, 2}


def test_typical_p_prefers_tokens_of_average_surprise() -> None:
    logits = torch.tensor([0.45, 0.25, 0.2, 0.1]).log()
    # entropy is 1.26 nats: 0.25 (1.39) is the most typical token, then 0.2, then 0.45
    assert possible(logits, SamplingParams(typical_p=0.2)) == {1}
    assert possible(logits, SamplingParams(typical_p=0.4)) == {1, 2}


def test_temperature_sharpens() -> None:
    logits = torch.tensor([1.0, 0.0])
    cold = [SamplingParams(temperature=0.1, seed=s) for s in range(200)]
    hot = [SamplingParams(temperature=10.0, seed=s) for s in range(200)]
    assert sum(pick(logits, *cold)) < 5 < 60 < sum(pick(logits, *hot)) < 140


def test_repetition_penalty_divides_positive_and_multiplies_negative_scores_once() -> None:
    history = np.array([0, 0, 1], np.int64)
    logits = torch.tensor([3.0, -1.0, 1.6, -1.5])
    assert pick(logits, SamplingParams(repetition_penalty=2.0), history=history) == [2]
    negative = torch.tensor([-1.0, -1.0, -9.0, -1.5])
    assert pick(negative, SamplingParams(repetition_penalty=2.0), history=history) == [3]


def test_frequency_penalty_counts_occurrences() -> None:
    history = np.array([0, 0, 0, 1], np.int64)
    logits = torch.tensor([2.0, 1.5, 0.9])
    assert pick(logits, SamplingParams(frequency_penalty=0.3), history=history) == [1]
    assert pick(logits, SamplingParams(frequency_penalty=0.7), history=history) == [2]


def test_presence_penalty_does_not_count() -> None:
    logits = torch.tensor([2.0, 1.5, 0.9])
    for history in ([0], [0, 0, 0, 0]):
        assert pick(logits, SamplingParams(presence_penalty=0.6), history=np.array(history)) == [1]
        assert pick(logits, SamplingParams(presence_penalty=0.4), history=np.array(history)) == [0]


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
def test_the_prompt_is_not_penalised_for_what_it_says(name: str) -> None:
    penalty: dict[str, Any] = {name: 1.0}
    history = np.array([0, 0, 0], np.int64)
    for prompt_length, token in ((3, 0), (2, 1), (0, 1)):
        logits = torch.tensor([2.0, 1.5, 0.0])
        assert pick(logits, SamplingParams(**penalty), history=history, prompt_length=prompt_length) == [token]


def test_min_p_is_relative_to_the_best() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert possible(logits, SamplingParams(min_p=0.2)) == {0, 1, 2}
    assert possible(logits, SamplingParams(min_p=0.59)) == {0, 1}
    assert possible(logits, SamplingParams(min_p=1.0)) == {0}


def test_logit_bias_is_added() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    assert pick(logits, SamplingParams(logit_bias={2: 2.5, 0: -1}), SamplingParams()) == [2, 0]


@pytest.mark.parametrize("params", [{}, {"do_sample": True, "temperature": 2.0}, {"logit_bias": {1: 100.0}}], ids=str)
def test_what_a_guide_forbids_is_never_picked(params: dict[str, Any]) -> None:
    allowed = torch.tensor([True, False, True, False])
    for seed in range(50):
        rows = rows_of([SamplingParams(**params, seed=seed, top_n_tokens=4)], [NO_HISTORY], allowed={0: allowed})
        choice = choose(torch.tensor([[0.0, 3.0, 0.5, 3.0]]), rows, sample)
        assert choice.tokens.item() in (0, 2) and set(choice.top[0].ids) == {0, 2}
        assert choice.logprobs.isfinite().all()


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    tokens = pick(probabilities.log(), *[SamplingParams(do_sample=True, seed=s) for s in range(4000)])
    counts = np.bincount(tokens, minlength=3) / 4000
    assert np.abs(counts - probabilities.numpy()).max() < 0.03


def test_a_choice_depends_only_on_its_own_seed_and_position() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    mine = SamplingParams(do_sample=True, seed=7)
    alone = pick(logits, mine, history=np.arange(12))
    beside = pick(logits, SamplingParams(top_k=3, seed=1), mine, SamplingParams(), history=np.arange(12))
    assert beside[1:2] == alone
    assert len({pick(logits, mine, history=np.arange(p))[0] for p in range(40)}) > 5


def test_noise_is_uniform_and_independent_in_each_argument() -> None:
    many, some = torch.arange(40000), torch.full((40000,), 3)
    for triple in ((many, some, some), (some, many, some), (some, some, many), (-many, many, many)):
        values = uniforms(*triple)
        assert values.min() > 0 and values.max() < 1
        assert abs(values.mean() - 0.5) < 0.01 and abs(values.var() - 1 / 12) < 0.002
        neighbours = torch.corrcoef(torch.stack((values[:-1], values[1:])))[0, 1]
        assert abs(neighbours) < 0.02


def test_last_bits_rarely_change_a_choice() -> None:
    logits = torch.randn(300, 5000, generator=torch.Generator().manual_seed(0)) * 3
    params = [SamplingParams(do_sample=True, seed=s) for s in range(300)]
    changed = np.array(pick(logits, *params)) != np.array(pick(logits + torch.randn_like(logits) * 1e-5, *params))
    assert changed.sum() <= 1


@pytest.mark.parametrize(
    "extreme",
    [
        {"temperature": 1e-40}, {"temperature": 3e38}, {"repetition_penalty": 1e-40}, {"repetition_penalty": 3e38},
        {"repetition_penalty": 1e-40, "temperature": 1e-40}, {"top_p": 1e-30}, {"typical_p": 1e-30},
        {"top_k": 2**31 - 1}, {"frequency_penalty": -2.0, "repetition_penalty": 1e38},
    ],
    ids=str,
)  # fmt: skip
def test_extreme_values_give_a_token_and_a_logprob(extreme: dict[str, float]) -> None:
    logits = torch.randn(1, 200, generator=torch.Generator().manual_seed(0)) * 5
    logits[0, 7] = -torch.inf
    params: Any = extreme | {"do_sample": True, "seed": 5, "top_n_tokens": 2}
    choice = choose(logits, rows_of([SamplingParams(**params)], [np.arange(100)]), sample)
    assert choice.tokens.item() != 7
    assert choice.logprobs.isfinite().all()
    assert 1 <= len(choice.top[0].ids) <= 2 + MOST_TIES


@pytest.mark.parametrize(
    ("n", "ids"), [(1, [0]), (2, [0, 3]), (3, [0, 3, 1, 4]), (4, [0, 3, 1, 4]), (5, [0, 3, 1, 4, 2])]
)
def test_top_tokens_hold_all_ties(n: int, ids: list[int]) -> None:
    assert top_tokens(torch.tensor([-1.0, -3.0, -4.0, -2.0, -3.0]), n).ids == ids


def test_top_tokens_of_all_rows_at_once() -> None:
    logprobs = torch.tensor([[-1.0, -3.0, -4.0, -2.0, -3.0], [-torch.inf, -1.0, -1.0, -9.0, -2.0]])
    for n in range(1, 6):
        assert top_of_rows(logprobs, n) == [top_tokens(row, n) for row in logprobs]


def test_impossible_tokens_are_no_alternatives() -> None:
    rows = rows_of([SamplingParams(top_k=2, top_n_tokens=3)], [NO_HISTORY])
    choice = choose(torch.tensor([[2.0, 1.0, 0.0]]), rows, sample)
    assert choice.top[0].ids == [0, 1]
    assert sum(np.exp(choice.top[0].logprobs)) == pytest.approx(1.0)
