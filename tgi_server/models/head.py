"""The output head: hidden states to scores over the vocabulary."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tgi_server.kernels.formats import Dense
from tgi_server.kernels.plain import HeadOp
from tgi_server.kernels.streamed import Streamed
from tgi_server.models.description import Description
from tgi_server.models.spec import HeadSpec
from tgi_server.models.weights import WeightLoader


class OutputHead:
    """Logits over the whole vocabulary, on rank 0. It is never quantised.

    Args:
        spec: of the model.
        own: of its head.
        load: gives this rank's rows.
        embedding: name of the token vectors, which are its weight where it is tied to them.

    Attributes:
        vectors: has these, where it is tied; else None.
    """

    def __init__(self, spec: Description, own: HeadSpec, load: WeightLoader, embedding: str) -> None:
        rows = load.group.span(spec.vocab_size)
        tied = own.name is None or (own.or_tied and not load.has(f"{own.name}.weight"))
        self._product = load.head(f"{embedding if tied else own.name}.weight", rows)
        self.vectors = self._product.vectors if tied else None
        self._lengths = _lengths(self._product, rows[1] - rows[0], load.needs.device) if own.by_direction else None
        self._bias = load.vector(f"{own.name}.bias", [rows]) if own.bias else None
        if own.offsets is not None and load.has(own.offsets):
            self._bias = load.vector(own.offsets)[0, slice(*rows)]
        self._scale, self._softcap = own.scale, own.softcap
        self._size, self._width, self._device = spec.vocab_size, spec.hidden_size, load.needs.device
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

    def rows(self) -> Streamed | None:
        """This rank's part of the weight, where scores are in the order of the products with it; else None."""
        if self._lengths is not None or self._bias is not None:
            return None
        first, last = self._group.span(self._size)

        def read(begin: int, end: int) -> Dense:
            return Dense(self._product.vectors(torch.arange(begin, end, device=self._device)))

        return Streamed(last - first, self._width, read)


@runtime_checkable
class Headed(Protocol):
    """A model whose head can be had."""

    head: OutputHead


def _lengths(head: HeadOp, count: int, device: torch.device) -> Tensor:
    """Of each of so many rows, float32 and above 0. Some rows at a time, as each time they are widened."""
    parts = torch.split(torch.arange(count, device=device), 4096)
    return torch.cat([head.vectors(part).float().norm(dim=1) for part in parts]).clamp_min_(1e-12)
