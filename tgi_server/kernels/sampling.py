"""The choice of a token for each row of scores, in plain torch: all other implementations have to agree with it.

In this order, which is TGI's for what TGI has: bias, watermark, repetition, frequency and presence, guide, temperature,
top-k, top-p, typical-p, min-p, choice. A filter sees what the one before it left, with its probabilities adding up to 1
again. Of equal scores all stay or none, so that no order matters.

The noise of a sampled choice is a function of the request's seed and the position, so it depends on nothing else in the
batch (decision D12) and needs no generator to be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi_server import greenlist

NEGLIGIBLE = 30.0
"""Distance to the best score beyond which a token is never drawn: all of them together have less than 1e-8."""
LARGEST = 1e30
"""Size to which penalised scores are held, so that no penalty makes infinity of them."""
_WHOLE = ("position", "previous", "source", "known", "prompt", "draws", "watermark", "guide", "top_n_tokens", "top_k")
_PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
_REAL = ("temperature", "top_p", "typical_p", "min_p", *_PENALTIES)
ROW = np.dtype([("seed", "<u8"), *((name, "<i8") for name in _WHOLE), *((name, "<f8") for name in _REAL)])
"""How one row gets its token.

`seed` and `position`, which the token will take in its text, make the noise; `draws`: whether it is drawn at all.
`previous` is the token before, `known` how many there are, which are the first of the text `source`, and `prompt` how
many of these were not generated. `guide`: which of the masks it has; -1 for none. The rest is as in
`types.SamplingParams`; `top_n_tokens` is for who reads the scores afterwards.
"""
Records = npt.NDArray[np.void]
"""Of dtype ROW."""


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to single scores: of row i `values[j]` to that of `ids[j]`, for j from `starts[i]` to
    `starts[i + 1]`; int64 `[rows + 1]`, int64 `[n]`, float32 `[n]`. No id comes twice in a row."""

    starts: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Masks:
    """Which tokens some rows may get.

    `words` is int32 `[masks, words]`, on the device of the scores: bit `i % 32` of word `i // 32` stands for token i.
    Mask i is that of row `rows[i]`.
    """

    rows: npt.NDArray[np.int64]
    words: Tensor


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """How rows of scores get their tokens.

    Attributes:
        rows: ROW `[rows]`.
        texts: int64 `[texts, longest]`, the known tokens of each text in front.
        gamma, delta: of the watermark: `delta` is added to the scores of the part `gamma` of the vocabulary.
        bias: None where no row has one.
        masks: the words of `Masks`; None where no row is guided.
    """

    rows: Records
    texts: npt.NDArray[np.int64]
    gamma: float
    delta: float
    bias: Bias | None = None
    masks: Tensor | None = None

    def which(self, name: str, off: float) -> npt.NDArray[np.intp]:
        """The rows whose `name` is not `off`."""
        return np.flatnonzero(self.rows[name] != off)


def sample(logits: Tensor, rows: SamplingRows) -> tuple[Tensor, Tensor, Tensor]:
    """The operation `sample`: a token for each row of scores, the first of the best or a drawn one.

    A drawn token has the probability its score says: it is the largest of `score + Gumbel noise` (arXiv:1411.0030),
    where the noise is a function of seed, position and token alone. Scores that differ in the last bits, as they do in
    other company, then rarely lead to another token; inverting the cumulative distribution would shift every boundary.
    Tokens whose score is more than NEGLIGIBLE below the best are never drawn.

    Args:
        logits: float32 `[rows, vocabulary]`; rows may lie apart. They are changed to what the choice was made by, but
            for a constant: what was filtered out is minus infinity.
        rows: one for each.

    Returns tokens (int64 `[rows]`), their log-probabilities and the log-sum-exp of each row (float32 `[rows]`).
    """
    process(logits, rows)
    tokens, normalisers = logits.argmax(dim=-1), logits.logsumexp(dim=-1)
    if len(drawn := rows.which("draws", 0)):
        seed, position = (_column(rows.rows[name].view(np.int64), drawn, logits) for name in ("seed", "position"))
        tokens[drawn] = _draw(logits[drawn], seed, position)
    return tokens, logits.gather(1, tokens.unsqueeze(1)).squeeze(1) - normalisers, normalisers


def process(logits: Tensor, rows: SamplingRows) -> None:
    """Change scores to what choices are made by."""
    edit(logits, rows)
    _guide(logits, rows)
    _heat(logits, rows)
    _filter(logits, rows, "top_k", 0, _outside_top_k)
    _filter(logits, rows, "top_p", 1.0, _outside_top_p)
    _filter(logits, rows, "typical_p", 1.0, _outside_typical_p)
    _filter(logits, rows, "min_p", 0.0, _outside_min_p)


def edit(logits: Tensor, rows: SamplingRows) -> None:
    """The changes of single scores, with which it begins."""
    _bias(logits, rows)
    _mark(logits, rows)
    _penalise(logits, rows)


def green(previous: Tensor, ids: Tensor, gamma: float) -> Tensor:
    """Whether the tokens `ids` are favoured after the tokens `previous` (int64, of shapes that fit each other).

    Each is with probability gamma, by a hash of its own. The paper shuffles the vocabulary and takes a part of it,
    which costs more and comes out differently on other devices.
    """
    return uniforms(previous, torch.full_like(previous, greenlist.KEY), ids) < gamma


def uniforms(seeds: Tensor, positions: Tensor, ids: Tensor) -> Tensor:
    """Numbers in (0, 1), float64, one for each int64 triple: a hash of three rounds of SplitMix64's finaliser."""
    x = _mix(_mix(_mix(seeds) + positions) + ids)
    return (_shifted(x, 11).double() + 0.5) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = x + signed(0x9E3779B97F4A7C15)
    x = (x ^ _shifted(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right as if unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def signed(number: int) -> int:
    """The 64-bit number with the same bits as the unsigned `number`."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _column(values: npt.NDArray[Any], which: npt.NDArray[np.intp], logits: Tensor) -> Tensor:
    """Some rows' values as a column beside their scores, float32 if they are no whole numbers."""
    column = torch.from_numpy(np.ascontiguousarray(values[which])).to(logits.device).unsqueeze(1)
    return column.float() if column.is_floating_point() else column


def _bias(logits: Tensor, rows: SamplingRows) -> None:
    if rows.bias is not None:
        owners = np.repeat(np.arange(len(logits)), np.diff(rows.bias.starts))
        owner, ids, values = (torch.from_numpy(a).to(logits.device) for a in (owners, rows.bias.ids, rows.bias.values))
        logits[owner, ids] += values


def _mark(logits: Tensor, rows: SamplingRows) -> None:
    """Favour the green tokens of the rows that ask for it."""
    if len(marked := rows.which("watermark", 0)):
        ids = torch.arange(logits.shape[1], device=logits.device)
        previous = _column(rows.rows["previous"], marked, logits)
        logits[marked] += rows.delta * green(previous, ids, rows.gamma)


def _penalise(logits: Tensor, rows: SamplingRows) -> None:
    """Repetition counts the prompt too; frequency and presence count what was generated, as OpenAI defines them."""
    if len(which := rows.which("repetition_penalty", 1.0)):
        scores, penalty = logits[which], _column(rows.rows["repetition_penalty"], which, logits)
        penalised = torch.where(scores < 0, scores * penalty, scores / penalty).clamp_(-LARGEST, LARGEST)
        logits[which] = torch.where(_counts(scores, rows, which) > 0, penalised, scores)
    if len(which := np.union1d(rows.which("frequency_penalty", 0.0), rows.which("presence_penalty", 0.0))):
        count = _counts(logits, rows, which, rows.rows["prompt"][which])
        frequency, presence = (_column(rows.rows[name], which, logits) for name in _PENALTIES[1:])
        logits[which] -= (presence + frequency * count) * (count > 0)


def _counts(
    logits: Tensor, rows: SamplingRows, which: npt.NDArray[np.intp], start: npt.NDArray[np.int64] | int = 0
) -> Tensor:
    """How often the texts of some rows have each token from a position `start` on, float32 `[which, vocabulary]`."""
    known, source = rows.rows["known"][which, None], rows.rows["source"][which]
    places = np.arange(int(known.max()))
    counted = (places < known) & (places >= np.reshape(start, (-1, 1)))
    texts = np.where(counted, rows.texts[source, : len(places)], 0)
    ids, once = (torch.from_numpy(part).to(logits.device) for part in (texts, counted))
    return logits.new_zeros(len(which), logits.shape[1]).scatter_add_(1, ids, once.float())


def _guide(logits: Tensor, rows: SamplingRows) -> None:
    if rows.masks is not None:
        guided = rows.which("guide", -1)
        ids = torch.arange(logits.shape[1], device=logits.device)
        words = rows.masks[_column(rows.rows["guide"], guided, logits), ids >> 5]
        logits[guided] = logits[guided].masked_fill_((words >> (ids & 31)) & 1 == 0, -torch.inf)


def _heat(logits: Tensor, rows: SamplingRows) -> None:
    """Divide by the temperature, less the best first: that stays at 0, however small the divisor."""
    if len(which := rows.which("temperature", 1.0)):
        scores = logits[which]
        logits[which] = (scores - scores.amax(dim=-1, keepdim=True)) / _column(rows.rows["temperature"], which, logits)


def _filter(
    logits: Tensor, rows: SamplingRows, name: str, off: float, outside: Callable[[Tensor, Tensor], Tensor]
) -> None:
    if len(which := rows.which(name, off)):
        scores = logits[which]
        logits[which] = scores.masked_fill_(outside(scores, _column(rows.rows[name], which, logits)), -torch.inf)


def _outside_top_k(scores: Tensor, k: Tensor) -> Tensor:
    """Below the k-th best score."""
    k = k.clamp(max=scores.shape[1])
    best = scores.topk(int(k.max()), dim=-1).values
    return scores < best.gather(1, k - 1)


def _outside_top_p(scores: Tensor, p: Tensor) -> Tensor:
    """Not needed to reach probability mass p from the top."""
    return _not_needed(-scores, scores, p)


def _outside_typical_p(scores: Tensor, p: Tensor) -> Tensor:
    """Not needed to reach mass p from the most typical token (locally typical sampling, arXiv:2202.00666).

    That is the one whose surprise is nearest to the entropy: its score to the mean of all scores.
    """
    typical = (scores.softmax(dim=-1, dtype=torch.float64) * scores.clamp(min=-LARGEST)).sum(dim=-1, keepdim=True)
    return _not_needed((typical.float() - scores).abs(), scores, p)


def _not_needed(keys: Tensor, scores: Tensor, p: Tensor) -> Tensor:
    """Not needed to reach mass p from the smallest key on."""
    ascending, order = keys.sort(dim=-1)
    mass = scores.softmax(dim=-1, dtype=torch.float64).gather(1, order)
    needed = (mass.cumsum(dim=-1) - mass < p).sum(dim=-1, keepdim=True)
    return keys > ascending.gather(1, needed.clamp(min=1) - 1)


def _outside_min_p(scores: Tensor, p: Tensor) -> Tensor:
    """Less likely than p times the most likely token (arXiv:2407.01082)."""
    return scores < scores.amax(dim=-1, keepdim=True) + p.log()


def _draw(logits: Tensor, seed: Tensor, position: Tensor) -> Tensor:
    """`seed` and `position` are columns."""
    rows, ids = (logits >= logits.amax(dim=-1, keepdim=True) - NEGLIGIBLE).nonzero(as_tuple=True)
    noise = -(-uniforms(seed[rows, 0], position[rows, 0], ids).log()).log()
    noisy = torch.full(logits.shape, -torch.inf, dtype=torch.float64, device=logits.device)
    noisy[rows, ids] = logits[rows, ids].double() + noise
    return noisy.argmax(dim=-1)
