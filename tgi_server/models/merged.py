"""A checkpoint with an adapter merged into it. Only what is read is merged, while it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tgi_server.errors import ModelError
from tgi_server.layers.spread import Span
from tgi_server.models.adapter import Adapter, Change, Product
from tgi_server.models.tensors import found
from tgi_server.models.weights import Tensors

_ROWS = 4096
"""Of a product that are computed at a time, so that a large matrix is in memory once only."""


class Merged:
    """`base` with the changes of `adapter`; see `weights.Tensors`.

    Tensors that are changed are float32: they were added in it, and are rounded once, by whoever places them.
    """

    def __init__(self, base: Tensors, adapter: Adapter) -> None:
        self._base = base
        self._adapter = adapter
        try:
            self._own: Any = safe_open(str(adapter.file), framework="pt")
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {adapter.file}: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self._base or (isinstance(name, str) and self._adapter.find(name) is not None)

    def read(self, name: str, axis: int = 0, pieces: Sequence[Span] | None = None, entry: int | None = None) -> Tensor:
        """See `Checkpoint`."""
        change = self._adapter.find(name)
        if change is None:
            return self._base.read(name, axis, pieces, entry)
        if entry is not None:
            return _cut(self.read(name)[entry], axis, pieces)
        if change.product is None or change.product.magnitude is None:
            return self._sum(change, axis, pieces)
        x, inputs = self._sum(change, 0, None), 0 if change.product.transposed else 1  # whole outputs have a length
        x *= (self._tensor(change.product.magnitude) / torch.linalg.vector_norm(x, dim=inputs)).unsqueeze(inputs)
        return _cut(x, axis, pieces)

    def _sum(self, change: Change, axis: int, pieces: Sequence[Span] | None) -> Tensor:
        x = self._start(change, axis, pieces)
        if change.rows is not None:
            self._set_rows(x, *change.rows, axis, pieces)
        if change.product is not None:
            self._add(x, change.product, axis, pieces)
        if change.vector is not None:
            vector, scale = change.vector
            x += _cut(self._tensor(vector), 0, pieces) * scale
        return x

    def _start(self, change: Change, axis: int, pieces: Sequence[Span] | None) -> Tensor:
        if change.replacement is not None:
            return _cut(self._own.get_tensor(change.replacement), axis, pieces).to(torch.float32, copy=True)
        name = found(change.source, self._adapter.spec.prefixes, self._base) or change.source
        return self._base.read(name, axis, pieces).to(torch.float32, copy=True)

    def _add(self, x: Tensor, product: Product, axis: int, pieces: Sequence[Span] | None) -> None:
        """Add to the rows or columns `pieces` of a matrix what belongs there."""
        down, up = self._tensor(product.down), self._tensor(product.up)
        left, right = (down.T, up.T) if product.transposed else (up, down)
        if axis == 0:
            left = _cut(left, 0, pieces)
        else:
            right = _cut(right, 1, pieces)
        for rows, part in zip(torch.split(x, _ROWS), torch.split(left, _ROWS), strict=True):
            rows += (part @ right).mul_(product.scale)

    def _set_rows(self, x: Tensor, name: str, indices: Sequence[int], axis: int, pieces: Sequence[Span] | None) -> None:
        new = self._tensor(name)
        if axis == 0:
            numbers = _cut(torch.arange(max([len(x), *(stop for _, stop in pieces or ())])), 0, pieces)
        else:
            numbers, new = torch.arange(len(x)), _cut(new, 1, pieces)
        for index, row in zip(indices, new, strict=True):
            x[numbers == index] = row

    def _tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._own.get_tensor(name)
        return tensor.float()


def _cut(x: Tensor, axis: int, pieces: Sequence[Span] | None) -> Tensor:
    return x if pieces is None else torch.cat([x.narrow(axis, start, stop - start) for start, stop in pieces], axis)
