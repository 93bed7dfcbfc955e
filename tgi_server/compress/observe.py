"""What the layers of a block read on a calibration text, and a block that tells of it while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tgi_server.kernels.plain import LinearOp
from tgi_server.layers.spread import Span
from tgi_server.models.checkpoint import Tensors
from tgi_server.models.checkpoint import part as part_of
from tgi_server.models.spec import Source
from tgi_server.models.weights import WeightLoader


class Seen:
    """Sums over all inputs that layers of a site have read.

    Attributes:
        hessian: float32 `[in, in]`, the products of each row's numbers with one another, summed.
        sizes: float32 `[in]`, the absolute numbers, summed.
        rows: how many.
    """

    def __init__(self, inputs: int, device: torch.device) -> None:
        self.hessian = torch.zeros(inputs, inputs, device=device)
        self.sizes = torch.zeros(inputs, device=device)
        self.rows = 0

    def add(self, x: Tensor) -> None:
        """Rows `[rows, in]` more."""
        x = x.float()
        self.hessian.addmm_(x.t(), x)
        self.sizes += x.abs().sum(0)
        self.rows += len(x)


class WatchedLoader(WeightLoader):
    """Builds layers that show their inputs to what `seen` has for the first of their sources."""

    def __init__(self, seen: Mapping[str, Seen], *more: Any) -> None:
        super().__init__(*more)
        self._seen = seen

    def column(self, sources: Sequence[Source], parts: Sequence[Span]) -> LinearOp:
        """See `WeightLoader`."""
        return self._watched(sources[0], super().column(sources, parts))

    def row(self, source: Source, part: Span) -> LinearOp:
        """See `WeightLoader`."""
        return self._watched(source, super().row(source, part))

    def _watched(self, source: Source, layer: LinearOp) -> LinearOp:
        seen = self._seen.get(source.name)
        if seen is None:
            return layer

        def watched(x: Tensor) -> Tensor:
            seen.add(x)
            return layer(x)

        return watched


class Changed:
    """The tensors `base`, some of which have other values by now; see `checkpoint.Tensors`.

    Attributes:
        changes: by their names in the checkpoint.
    """

    def __init__(self, base: Tensors) -> None:
        self.changes: dict[str, Tensor] = {}
        self._base = base

    def __contains__(self, name: object) -> bool:
        return name in self._base

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors`."""
        return self._base.shape(name)

    def read(
        self, name: str, axis: int = 0, pieces: Sequence[Span] | None = None, entry: int | None = None,
        rows: Span | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Tensors`."""
        if name not in self.changes:
            return self._base.read(name, axis, pieces, entry, rows)
        x = self.changes[name] if entry is None else self.changes[name][entry]
        pieces = [(0, x.shape[axis])] if pieces is None else pieces
        if axis == 0 and rows is not None:
            pieces, rows = part_of(pieces, *rows), None
        x = torch.cat([x.narrow(axis, first, last - first) for first, last in pieces], dim=axis)
        return x if rows is None else x[slice(*rows)]
