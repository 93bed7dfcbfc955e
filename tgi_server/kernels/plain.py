"""Products and the choice of a token in torch itself: they run everywhere, all others have to agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding
from torch.nn.functional import linear as multiply

from tgi_server.kernels.attention import attention
from tgi_server.kernels.experts import experts
from tgi_server.kernels.formats import Dense, Format
from tgi_server.kernels.operations import add_norm, gate, mean_squares, rotate_store
from tgi_server.kernels.recurrent import convolve, scan
from tgi_server.kernels.row import Kernel, Needs

LinearOp = Callable[[Tensor], Tensor]
"""A linear layer: `[rows, in]` to `[rows, out]`, both in the serving dtype."""

NEGLIGIBLE = 30.0
"""Distance to the best score beyond which a token is never drawn: all of them together have less than 1e-8."""


def linear(weight: Format, bias: Tensor | None, dtype: torch.dtype) -> LinearOp:
    """The operation `linear`: a layer `x @ weight.T + bias` for inputs of `dtype`; `bias [out]` or None.

    Dense weights are multiplied as they are, others widened at every call.
    """
    if isinstance(weight, Dense):
        return partial(multiply, weight=weight.weight, bias=bias)
    return lambda x: multiply(weight.seen(x), weight.widened(x.dtype), bias)


class HeadOp(Protocol):
    """An output head: a weight `[out, in]` that scores hidden states, and whose rows can be had."""

    def __call__(self, x: Tensor) -> Tensor:
        """Hidden states `[rows, in]` to float32 `[rows, out]`."""
        ...

    def vectors(self, outputs: Tensor) -> Tensor:
        """Rows of the weight by their numbers (int64 `[n]`), `[n, in]`: they embed the tokens of a tied head."""
        ...


@dataclass(frozen=True, slots=True)
class Head:
    """A head by one function, beside the weight as it is."""

    weight: Tensor
    scores: LinearOp

    def __call__(self, x: Tensor) -> Tensor:
        """See `HeadOp`."""
        return self.scores(x)

    def vectors(self, outputs: Tensor) -> Tensor:
        """See `HeadOp`."""
        return embedding(outputs, self.weight)


def head(weight: Tensor) -> Head:
    """The operation `head`: hidden states `[rows, in]` times `weight [out, in]`, as float32 `[rows, out]`."""
    return _exact_head(weight, linear(Dense(weight), None, weight.dtype))


def _exact_head(weight: Tensor, multiply: LinearOp) -> Head:
    return Head(weight, partial(float_logits, weight=weight, multiply=multiply))


def float_logits(x: Tensor, weight: Tensor, multiply: LinearOp) -> Tensor:
    """`x [rows, hidden] @ weight.T` as float32, with the best scores of each row exact.

    A 16-bit result has steps of 1/16 around 10, so that the leaders often tie: the scores within a few such steps of
    the best are computed again.
    """
    if x.dtype == torch.float32:
        return multiply(x)
    logits = multiply(x).float()
    best = logits.amax(dim=-1, keepdim=True)
    rows, ids = (logits >= best - best.abs() * 2**-6).nonzero(as_tuple=True)
    logits[rows, ids] = (x[rows].float() * weight[ids].float()).sum(dim=-1)
    return logits


def choose(
    logits: Tensor, seeds: Sequence[int], positions: Sequence[int], draws: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The operation `choose`: a token for each row of scores, the first of the best or a drawn one.

    A drawn token has the probability its score says: it is the largest of `score + Gumbel noise` (arXiv:1411.0030),
    where the noise is a function of seed, position and token alone. Scores that differ in the last bits, as they do in
    other company, then rarely lead to another token; inverting the cumulative distribution would shift every boundary.
    Tokens whose score is more than NEGLIGIBLE below the best are never drawn.

    Args:
        logits: float32 `[rows, vocabulary]`; rows may lie apart.
        seeds: unsigned 64-bit, one a row.
        positions: which the token will take in its sequence, one a row.
        draws: whether to draw, one a row.

    Returns tokens (int64 `[rows]`), their log-probabilities and the log-sum-exp of each row (float32 `[rows]`).
    """
    return chosen(logits, logits.argmax(dim=-1), logits.logsumexp(dim=-1), seeds, positions, draws)


def chosen(
    logits: Tensor, best: Tensor, normaliser: Tensor, seeds: Sequence[int], positions: Sequence[int],
    draws: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`choose`, once the best of each row and the log-sum-exp are known."""
    random = [row for row, draw in enumerate(draws) if draw]
    if random:
        best[random] = _draw(logits[random], [seeds[row] for row in random], [positions[row] for row in random])
    return best, logits.gather(1, best.unsqueeze(1)).squeeze(1) - normaliser, normaliser


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


def _draw(logits: Tensor, seeds: Sequence[int], positions: Sequence[int]) -> Tensor:
    device = logits.device
    seed, position = (torch.tensor(numbers, device=device) for numbers in ([*map(signed, seeds)], list(positions)))
    rows, ids = (logits >= logits.amax(dim=-1, keepdim=True) - NEGLIGIBLE).nonzero(as_tuple=True)
    noisy = torch.full(logits.shape, -torch.inf, dtype=torch.float64, device=device)
    noisy[rows, ids] = logits[rows, ids].double() - (-uniforms(seed[rows], position[rows], ids).log()).log()
    return noisy.argmax(dim=-1)


def _reordered(weight: Dense, bias: Tensor | None, dtype: torch.dtype) -> LinearOp:
    """oneDNN's linear on a weight reordered once instead of at every call (torch's own fused-linear operator)."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.weight)
    run = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: run(x, packed, bias, "none", [], "")


def _onednn_head(weight: Tensor) -> Head:
    return _exact_head(weight, _reordered(Dense(weight), None, weight.dtype))


def _cuda_head(weight: Tensor) -> Head:
    if weight.dtype == torch.float32:
        return Head(weight, partial(multiply, weight=weight))
    return Head(weight, lambda x: torch.mm(x, weight.t(), out_dtype=torch.float32))


def _only_dense(needs: Needs) -> list[str]:
    return (
        [] if needs.format is Dense else [f"it multiplies dense weights, not {getattr(needs.format, '__name__', '')}"]
    )


ROWS = [
    Kernel("linear", "onednn", lambda: _reordered, _only_dense),
    Kernel("head", "onednn", lambda: _onednn_head),
    Kernel("linear", "cublas", lambda: linear, _only_dense, recorder="graphs"),
    Kernel("head", "cublas", lambda: _cuda_head, recorder="graphs"),
    Kernel("add_norm", "torch", lambda: add_norm),
    Kernel("mean_squares", "torch", lambda: mean_squares),
    Kernel("rotate_store", "torch", lambda: rotate_store),
    Kernel("gate", "torch", lambda: gate),
    Kernel("attention", "torch", lambda: attention),
    Kernel("convolve", "torch", lambda: convolve),
    Kernel("scan", "torch", lambda: scan),
    Kernel("linear", "torch", lambda: linear),
    Kernel("experts", "torch", lambda: partial(experts, linear=linear)),
    Kernel("head", "torch", lambda: head),
    Kernel("choose", "torch", lambda: choose),
]
