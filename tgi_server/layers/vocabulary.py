"""Token embedding and output head, their rows spread over the ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding

from tgi_server.layers.parallel import Group
from tgi_server.quantize.base import LinearOp


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
    """Logits over the whole vocabulary of `size` tokens, on rank 0.

    `weight [vocabulary, hidden]` is this rank's rows; `multiply` computes `x @ weight.T`, perhaps faster.
    """

    def __init__(self, weight: Tensor, multiply: LinearOp, size: int, group: Group) -> None:
        self.weight = weight
        self.multiply = multiply
        self.size = size
        self.group = group

    def __call__(self, x: Tensor) -> Tensor | None:
        """Hidden states `[rows, hidden]` to float32 logits `[rows, vocabulary]`; None on ranks other than 0."""
        return self.group.gather_columns(float_logits(x, self.weight, self.multiply), self.size)


def float_logits(x: Tensor, weight: Tensor, multiply: LinearOp) -> Tensor:
    """`x [rows, hidden] @ weight.T` as float32, with the best scores of each row exact.

    A 16-bit result has steps of 1/16 around 10, so that the leaders often tie. CUDA can write float32; on a CPU the
    scores within a few such steps of the best are computed again.
    """
    if x.dtype == torch.float32:
        return multiply(x)
    if x.is_cuda:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    logits = multiply(x).float()
    best = logits.amax(dim=-1, keepdim=True)
    rows, ids = (logits >= best - best.abs() * 2**-6).nonzero(as_tuple=True)
    logits[rows, ids] = (x[rows].float() * weight[ids].float()).sum(dim=-1)
    return logits
