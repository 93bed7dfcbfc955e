"""Products in torch itself, and the rows of all that is declared in torch: it runs everywhere."""

from __future__ import annotations

from collections.abc import Callable
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
from tgi_server.kernels.sampling import sample

LinearOp = Callable[[Tensor], Tensor]
"""A linear layer: `[rows, in]` to `[rows, out]`, both in the serving dtype."""


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
    Kernel("sample", "torch", lambda: sample),
]
