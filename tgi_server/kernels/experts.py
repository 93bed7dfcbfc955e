"""A mixture of experts (arXiv:1701.06538), declared by plain torch for it: of several MLPs a token takes a few."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tgi_server.kernels.formats import Format
from tgi_server.kernels.operations import FREE, Activation, Clamp, gate


@dataclass(frozen=True, slots=True)
class Expert:
    """One MLP: `inputs [2 * inner, hidden]`, gate and up side by side, then `down [hidden, inner]`; biases or None."""

    inputs: Format
    down: Format
    inputs_bias: Tensor | None = None
    down_bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Mixture:
    """How a token's experts are chosen and what they compute.

    Attributes:
        count: experts.
        chosen: how many of them a token takes, those of its highest scores (of equal ones the first).
        activation, gated, clamp: see `operations.gate`.
        over_all: whether the chosen ones' weights are their part of a softmax over all scores; else of the softmax over
            theirs alone, which is the same as the former divided by its sum.
    """

    count: int
    chosen: int
    activation: Activation
    gated: bool = True
    clamp: Clamp = FREE
    over_all: bool = False


ExpertsOp = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""`x [rows, hidden]` and `shared` in the serving dtype, and float32 scores, to `[rows, hidden]`; see `experts`."""


def experts(
    layers: Iterable[Expert], mixture: Mixture, bias: Tensor | None, dtype: torch.dtype,
    linear: Callable[[Format, Tensor | None, torch.dtype], Callable[[Tensor], Tensor]],
) -> ExpertsOp:  # fmt: skip
    """The operation `experts`: the sum of what the chosen experts make of a row, each times its weight.

    Its callable takes `x`, `scores [rows, count]` float32, and `shared`, what is added to the sum (`[rows, hidden]`, or
    None); where scores have one column more, `shared` is added times the sigmoid of that. Weights that are not dense
    are widened when their expert is chosen.

    Args:
        layers: `mixture.count` experts, all of one shape and format.
        mixture: how they are chosen.
        bias: of the scores, float32 `[count]`; None for none.
        dtype: of what the callable takes and gives.
        linear: makes a layer; the other implementations have products of their own.
    """
    made = [(linear(e.inputs, e.inputs_bias, dtype), linear(e.down, e.down_bias, dtype)) for e in layers]

    def run(x: Tensor, scores: Tensor, shared: Tensor | None = None) -> Tensor:
        weights, ids = routed(scores[:, : mixture.count], mixture, bias)
        sums = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        for expert in sorted(set(ids.flatten().tolist())):
            inputs, down = made[expert]
            rows, places = (ids == expert).nonzero(as_tuple=True)
            y = down(gate(inputs(x[rows]), mixture.activation, mixture.gated, mixture.clamp))
            sums.index_add_(0, rows, y.float() * weights[rows, places].unsqueeze(1))
        if shared is not None:
            more = scores[:, mixture.count :]
            sums += shared.float() * more.sigmoid() if more.shape[1] else shared.float()
        return sums.to(dtype)

    return run


def routed(scores: Tensor, mixture: Mixture, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights (float32) and numbers of each row's experts, `[rows, chosen]`, of scores `[rows, count]`."""
    scores = scores if bias is None else scores + bias
    best, ids = scores.sort(dim=1, descending=True, stable=True)
    best, ids = best[:, : mixture.chosen], ids[:, : mixture.chosen]
    if mixture.over_all:
        return (best - scores.logsumexp(dim=1, keepdim=True)).exp(), ids
    return best.softmax(dim=1), ids
