"""The output head: hidden states to scores over the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from tgi_server.models.description import Description
from tgi_server.models.spec import HeadSpec
from tgi_server.models.weights import WeightLoader


class OutputHead:
    """Logits over the whole vocabulary, on rank 0. It is never quantised.

    Args:
        spec: of the model.
        own: of its head.
        load: gives this rank's rows.
        vectors: this rank's rows of the embedding, for heads that are tied to it.
    """

    def __init__(self, spec: Description, own: HeadSpec, load: WeightLoader, vectors: Tensor) -> None:
        rows = load.group.span(spec.vocab_size)
        name = f"{own.name}.weight"
        tied = own.name is None or (own.or_tied and not load.has(name))
        weight = vectors if tied else load.matrix(name, rows)
        self._lengths = _lengths(weight) if own.by_direction else None
        self._product = load.best("head", inputs=spec.hidden_size).run(weight)
        self._bias = load.vector(f"{own.name}.bias", [rows]) if own.bias else None
        if own.offsets is not None and load.has(own.offsets):
            self._bias = load.vector(own.offsets)[0, slice(*rows)]
        self._scale, self._softcap = own.scale, own.softcap
        self._size = spec.vocab_size
        self._group = load.group

    def __call__(self, x: Tensor) -> Tensor | None:
        """Hidden states `[rows, hidden]` to float32 logits `[rows, vocabulary]`; None on ranks other than 0."""
        logits: Tensor = self._product(x)
        if self._lengths is not None:
            logits = logits / self._lengths
        if self._bias is not None:
            logits = logits + self._bias
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._softcap is not None:
            logits = self._softcap * (logits / self._softcap).tanh()
        return self._group.gather_columns(logits, self._size)


def _lengths(weight: Tensor) -> Tensor:
    """Of each row, float32 and above 0. Some rows at a time, as each time they are widened."""
    return torch.cat([rows.float().norm(dim=1) for rows in torch.split(weight, 4096)]).clamp_min_(1e-12)
