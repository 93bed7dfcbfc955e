"""Logits to tokens: penalties, temperature, top-k, top-p, typical-p, choice (in this order, as TGI has it).

A sampled choice is made by one uniform number that is a hash of the request's seed and the position, so it depends on
nothing else in the batch (decision D12) and needs no generator to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi_server.types import SamplingParams, TopTokens

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choice:
    """`tokens` int64 `[rows]`, `logprobs` float32 `[rows]`; `top` has an entry for each row that asked for one."""

    tokens: Tensor
    logprobs: Tensor
    top: dict[int, TopTokens]


def choose(
    logits: Tensor, params: Sequence[SamplingParams], history: Callable[[int], IntArray], positions: IntArray
) -> Choice:
    """Pick a token for each row of `logits` (float32 `[rows, vocabulary]`, changed in place).

    `history(row)` gives the ids known before the choice, asked for only where a penalty needs them; `positions[row]`
    is the position the token will take. Log-probabilities are those of the processed scores.
    """
    _penalise(logits, params, history)
    _warp(logits, params)
    tokens = logits.argmax(dim=-1)
    random = [row for row, p in enumerate(params) if p.samples]
    if random:
        uniform = uniforms(np.array([params[row].seed for row in random], dtype=np.uint64), positions[random])
        tokens[random] = _draw(logits[random], torch.from_numpy(uniform).to(logits.device))
    chosen = logits.gather(1, tokens.unsqueeze(1)).squeeze(1)
    normaliser = logits.logsumexp(dim=-1)
    top = {
        row: top_tokens(logits[row] - normaliser[row], p.top_n_tokens) for row, p in enumerate(params) if p.top_n_tokens
    }
    return Choice(tokens, chosen - normaliser, top)


def uniforms(seeds: npt.NDArray[np.uint64], positions: IntArray) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each pair of seed and position (the SplitMix64 finaliser)."""
    with np.errstate(over="ignore"):
        x = _mix(_mix(seeds) + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    uniform: npt.NDArray[np.float64] = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """The first token where the cumulative probability passes `uniform`, float64 against rounding at the far end."""
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    target = uniform.unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)


def _penalise(logits: Tensor, params: Sequence[SamplingParams], history: Callable[[int], IntArray]) -> None:
    for row, p in enumerate(params):
        if p.repetition_penalty == 1.0 and p.frequency_penalty == 0.0:
            continue
        known, count = np.unique(history(row), return_counts=True)
        ids = torch.from_numpy(known).to(logits.device)
        scores = logits[row, ids]
        scores = torch.where(scores < 0, scores * p.repetition_penalty, scores / p.repetition_penalty)
        scores -= p.frequency_penalty * torch.from_numpy(count).to(logits.device)
        logits[row, ids] = scores


def _warp(logits: Tensor, params: Sequence[SamplingParams]) -> None:
    """Temperature, then the three filters, each only on the rows that ask for it."""
    if any(p.temperature != 1.0 for p in params):
        logits /= logits.new_tensor([p.temperature for p in params]).unsqueeze(1)
    _filter(logits, [p.top_k for p in params], 0, _outside_top_k)
    _filter(logits, [p.top_p for p in params], 1.0, _outside_top_p)
    _filter(logits, [p.typical_p for p in params], 1.0, _outside_typical_p)


def _filter(logits: Tensor, values: Sequence[float], off: float, outside: Callable[[Tensor, Tensor], Tensor]) -> None:
    rows = [row for row, value in enumerate(values) if value != off]
    if rows:
        scores = logits[rows]
        limit = torch.tensor([values[row] for row in rows], device=logits.device).unsqueeze(1)
        logits[rows] = scores.masked_fill_(outside(scores, limit), float("-inf"))


def _outside_top_k(scores: Tensor, k: Tensor) -> Tensor:
    """Below the k-th best score; ties with it stay."""
    k = k.clamp(max=scores.shape[1])
    best = scores.topk(int(k.max()), dim=-1).values
    return scores < best.gather(1, k - 1)


def _outside_top_p(scores: Tensor, p: Tensor) -> Tensor:
    """Not needed to reach probability mass p from the top."""
    ascending, order = scores.sort(dim=-1)
    drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[:, -1] = False
    return torch.zeros_like(drop).scatter_(1, order, drop)


def _outside_typical_p(scores: Tensor, p: Tensor) -> Tensor:
    """Not needed to reach mass p from the most typical token (locally typical sampling, arXiv:2202.00666)."""
    logprobs = scores.log_softmax(dim=-1)
    probabilities = logprobs.exp()
    entropy = -(probabilities * logprobs.masked_fill(probabilities == 0, 0.0)).sum(dim=-1, keepdim=True)
    order = (-logprobs - entropy).abs().argsort(dim=-1)
    mass = probabilities.gather(1, order).cumsum(dim=-1)
    drop = torch.zeros_like(mass, dtype=torch.bool)
    drop[:, 1:] = mass[:, :-1] >= p
    return torch.zeros_like(drop).scatter_(1, order, drop)


def top_tokens(logprobs: Tensor, n: int) -> TopTokens:
    """The `n` best of `logprobs [vocabulary]` with all ties of the n-th; impossible tokens are left out."""
    nth = logprobs.topk(min(n, logprobs.shape[0])).values[-1]
    ids = ((logprobs >= nth) & logprobs.isfinite()).nonzero().squeeze(1)
    values, order = logprobs[ids].sort(descending=True, stable=True)
    return TopTokens(ids[order].tolist(), values.tolist())
