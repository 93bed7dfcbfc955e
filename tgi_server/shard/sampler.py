"""Logits to tokens, and what is told about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tgi_server import greenlist
from tgi_server.config.schema import WatermarkOptions
from tgi_server.kernels.sampling import SamplingRows
from tgi_server.types import TopTokens

Sample = Callable[[Tensor, SamplingRows], tuple[Tensor, Tensor, Tensor]]
"""The operation `sample` of `kernels.sampling`."""
MOST_TIES = 32
"""Alternatives beyond the wanted number that are reported because they tie with the last."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`tokens` int64 `[rows]`, `logprobs` float32 `[rows]`; `top` has an entry for each row that asked for one."""

    tokens: Tensor
    logprobs: Tensor
    top: dict[int, TopTokens]


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


def choose(logits: Tensor, rows: SamplingRows, sample: Sample) -> Choice:
    """Pick a token for each row of `logits` (float32 `[rows, vocabulary]`, changed in place)."""
    tokens, logprobs, normalisers = sample(logits, rows)
    wanted = rows.rows["top_n_tokens"]
    top = {row: top_tokens(logits[row] - normalisers[row], int(wanted[row])) for row in wanted.nonzero()[0].tolist()}
    return Choice(tokens, logprobs, top)


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
