"""Token embedding and output head, their rows spread over the ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import embedding

from tgi_server.layers.parallel import Group
from tgi_server.native.linear import NativeLinear, why_not
from tgi_server.quantize.base import LinearOp
from tgi_server.quantize.none import NoQuantize


class VocabularyEmbedding:
    """Rows `[start, stop)` of the embedding matrix; ids of other ranks contribute zeros to the sum."""

    def __init__(self, weight: Tensor, start: int, group: Group) -> None:
        self.weight = weight
        self.start = start
        self.group = group

    def __call__(self, ids: Tensor) -> Tensor:
        """Token ids `[tokens]` to float32 vectors `[tokens, hidden]`."""
        if self.group.world == 1:
            return embedding(ids, self.weight).float()
        local = ids - self.start
        mine = (local >= 0) & (local < self.weight.shape[0])
        vectors = embedding(local.where(mine, local.new_zeros(())), self.weight).float()
        return self.group.all_reduce(vectors.masked_fill_(~mine.unsqueeze(-1), 0.0))


class OutputHead:
    """Logits over the whole vocabulary of `size` tokens, on rank 0; `weight [vocabulary, hidden]` is this rank's."""

    def __init__(self, weight: Tensor, size: int, group: Group) -> None:
        self._logits = _head_product(weight)
        self._size = size
        self._group = group

    def __call__(self, x: Tensor) -> Tensor | None:
        """Hidden states `[rows, hidden]` to float32 logits `[rows, vocabulary]`; None on ranks other than 0."""
        return self._group.gather_columns(self._logits(x), self._size)


def _head_product(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """`x @ weight.T` as float32, which is never quantised; on CPUs from a second copy in the product's own order."""
    if not why_not(weight.dtype, weight):
        return NativeLinear(weight, weight.dtype, result=torch.float32)
    if weight.is_cuda and weight.dtype != torch.float32:
        return lambda x: torch.mm(x, weight.t(), out_dtype=torch.float32)
    return partial(float_logits, weight=weight, multiply=NoQuantize().build({"weight": weight}, None))


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
