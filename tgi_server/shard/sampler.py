"""Logits to tokens: bias, watermark, penalties, guide, temperature, top-k, top-p, typical-p, min-p, choice.

In this order, which is TGI's for what TGI has.

The noise of a sampled choice is a function of the request's seed and the position, so it depends on nothing else in the
batch (decision D12) and needs no generator to be kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tgi_server import greenlist
from tgi_server.config.schema import WatermarkOptions
from tgi_server.kernels.plain import uniforms
from tgi_server.rope.table import IntArray
from tgi_server.types import SamplingParams, TopTokens

Pick = Callable[[Tensor, Sequence[int], Sequence[int], Sequence[bool]], tuple[Tensor, Tensor, Tensor]]
"""The operation `choose` of `kernels.plain`."""
LARGEST = 1e30
"""Size to which penalised scores are held, so that no penalty makes infinity of them."""
MOST_TIES = 32
"""Alternatives beyond the wanted number that are reported because they tie with the last."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`tokens` int64 `[rows]`, `logprobs` float32 `[rows]`; `top` has an entry for each row that asked for one."""

    tokens: Tensor
    logprobs: Tensor
    top: dict[int, TopTokens]


@dataclass(frozen=True, slots=True)
class Row:
    """A place in a text that gets a token: how, after which ids, and how many of these are the prompt."""

    params: SamplingParams
    known: IntArray
    prompt_length: int

    @property
    def position(self) -> int:
        """That the token will take."""
        return len(self.known)


@dataclass(frozen=True, slots=True)
class Watermark:
    """How marked texts are marked: by `delta` on the scores of the part `gamma` of the vocabulary.

    The "soft" watermark of arXiv:2301.10226. Which tokens are favoured (green) follows from the token before alone, so
    that a text can be tested without the model, the prompt or the request (`tgi_server.watermark`).
    """

    gamma: float = greenlist.GAMMA
    delta: float = greenlist.DELTA

    @classmethod
    def of(cls, options: WatermarkOptions) -> Watermark:
        """As the options say; what they leave out is as in the paper."""
        gamma, delta, unset = options.watermark_gamma, options.watermark_delta, cls()
        return cls(unset.gamma if gamma is None else gamma, unset.delta if delta is None else delta)

    def green(self, previous: Tensor, ids: Tensor) -> Tensor:
        """Whether the tokens `ids` are favoured after the tokens `previous` (int64, of shapes that fit each other).

        Each is with probability gamma, by a hash of its own. The paper shuffles the vocabulary and takes a part of it,
        which costs more and comes out differently on other devices.
        """
        return uniforms(previous, torch.full_like(previous, greenlist.KEY), ids) < self.gamma


def choose(
    logits: Tensor,
    rows: Sequence[Row],
    watermark: Watermark,
    pick: Pick,
    allowed: Mapping[int, Tensor] | None = None,
) -> Choice:
    """Pick a token for each row of `logits` (float32 `[rows, vocabulary]`, changed in place).

    `pick` chooses by the processed scores, whose log-probabilities are told. `allowed[row]`, bool `[vocabulary]`, says
    which tokens a guided row may have.
    """
    params = [row.params for row in rows]
    _bias(logits, params)
    _mark(logits, rows, watermark)
    _penalise(logits, rows)
    for row, mask in (allowed or {}).items():
        logits[row].masked_fill_(~mask, -torch.inf)
    _warp(logits, params)
    seeds, positions, draws = [p.seed for p in params], [row.position for row in rows], [p.samples for p in params]
    tokens, logprobs, normaliser = pick(logits, seeds, positions, draws)
    top = {
        row: top_tokens(logits[row] - normaliser[row], p.top_n_tokens) for row, p in enumerate(params) if p.top_n_tokens
    }
    return Choice(tokens, logprobs, top)


def _bias(logits: Tensor, params: Sequence[SamplingParams]) -> None:
    """Add what a request wants added to single tokens."""
    for row, p in enumerate(params):
        if p.logit_bias:
            ids = torch.tensor(list(p.logit_bias), device=logits.device)
            logits[row, ids] += torch.tensor(list(p.logit_bias.values()), device=logits.device)


def _mark(logits: Tensor, rows: Sequence[Row], watermark: Watermark) -> None:
    """Favour the green tokens of the rows that ask for it."""
    marked = [index for index, row in enumerate(rows) if row.params.watermark]
    if marked:
        previous = torch.tensor([int(rows[index].known[-1]) for index in marked], device=logits.device)
        ids = torch.arange(logits.shape[1], device=logits.device)
        logits[marked] += watermark.delta * watermark.green(previous.unsqueeze(1), ids)


def _penalise(logits: Tensor, rows: Sequence[Row]) -> None:
    """Repetition counts the prompt too; frequency and presence count what was generated, as OpenAI defines them."""
    for index, row in enumerate(rows):
        p = row.params
        if p.repetition_penalty != 1.0:
            ids = torch.from_numpy(np.unique(row.known)).to(logits.device)
            scores = logits[index, ids]
            scores = torch.where(scores < 0, scores * p.repetition_penalty, scores / p.repetition_penalty)
            logits[index, ids] = scores.clamp_(-LARGEST, LARGEST)
        if p.frequency_penalty != 0.0 or p.presence_penalty != 0.0:
            known, count = np.unique(row.known[row.prompt_length :], return_counts=True)
            ids = torch.from_numpy(known).to(logits.device)
            logits[index, ids] -= p.presence_penalty + p.frequency_penalty * torch.from_numpy(count).to(logits.device)


def _warp(logits: Tensor, params: Sequence[SamplingParams]) -> None:
    """Temperature, then the filters, each only on the rows that ask for it."""
    if any(p.temperature != 1.0 for p in params):
        logits -= logits.amax(dim=-1, keepdim=True)  # the best stays at 0, however small the divisor
        logits /= logits.new_tensor([p.temperature for p in params]).unsqueeze(1)
    _filter(logits, [p.top_k for p in params], 0, _outside_top_k)
    _filter(logits, [p.top_p for p in params], 1.0, _outside_top_p)
    _filter(logits, [p.typical_p for p in params], 1.0, _outside_typical_p)
    _filter(logits, [p.min_p for p in params], 0.0, _outside_min_p)


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


def _outside_min_p(scores: Tensor, p: Tensor) -> Tensor:
    """Less likely than p times the most likely token (arXiv:2407.01082)."""
    return scores < scores.amax(dim=-1, keepdim=True) + p.log()


def top_of_rows(logprobs: Tensor, n: int) -> list[TopTokens]:
    """The same for all rows of `logprobs [rows, vocabulary]` at once; of many ties with the n-th not all are there."""
    count = min(n + MOST_TIES, logprobs.shape[1])
    values, ids = (part.tolist() for part in logprobs.topk(count, dim=-1))
    tops = []
    for row_values, row_ids in zip(values, ids, strict=True):
        nth = row_values[min(n, count) - 1]
        kept = [(-value, id) for value, id in zip(row_values, row_ids, strict=True) if nth <= value > -math.inf]
        tops.append(TopTokens([id for _, id in sorted(kept)], [-value for value, _ in sorted(kept)]))
    return tops


def top_tokens(logprobs: Tensor, n: int) -> TopTokens:
    """The `n` best of `logprobs [vocabulary]` with up to MOST_TIES ties of the n-th; impossible tokens are left out."""
    nth = logprobs.topk(min(n, logprobs.shape[0])).values[-1]
    ids = ((logprobs >= nth) & logprobs.isfinite()).nonzero().squeeze(1)
    values, order = logprobs[ids].sort(descending=True, stable=True)
    kept = order[: n + MOST_TIES]
    return TopTokens(ids[kept].tolist(), values[: n + MOST_TIES].tolist())
