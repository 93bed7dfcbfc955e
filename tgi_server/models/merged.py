"""A checkpoint with an adapter merged into it. Only what is read is merged, while it is read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tgi_server.layers.spread import Span
from tgi_server.models.adapter import Adapter, Change, Product
from tgi_server.models.checkpoint import Checkpoint, Tensors, part
from tgi_server.models.files import tensors
from tgi_server.models.tensors import found

_ROWS = 4096
"""Of a product that are computed at a time, so that a large matrix is in memory once only."""

_KEPT = 8
"""Tensors of the adapter that are not read again while a layer is, part by part."""


class Merged:
    """`base` with the changes of `adapter`; see `checkpoint.Tensors`.

    Tensors that are changed are float32: they were added in it, and are rounded once, by whoever places them.
    """

    def __init__(self, base: Tensors, adapter: Adapter) -> None:
        self._base = base
        self._adapter = adapter
        self._own = Checkpoint(adapter.file.parent, infos=tensors(adapter.file))
        self._tensor = lru_cache(_KEPT)(self._read_own)
        self._factor = lru_cache(_KEPT)(self._lengthened)

    def __contains__(self, name: object) -> bool:
        return name in self._base or (isinstance(name, str) and self._adapter.find(name) is not None)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `checkpoint.Tensors`."""
        change = self._adapter.find(name)
        if change is None:
            return self._base.shape(name)
        if change.replacement is not None:
            return self._own.shape(change.replacement)
        return self._base.shape(self._source(change))

    def read(
        self, name: str, axis: int = 0, pieces: Sequence[Span] | None = None, entry: int | None = None,
        rows: Span | None = None,
    ) -> Tensor:  # fmt: skip
        """See `checkpoint.Tensors`."""
        change = self._adapter.find(name)
        if change is None:
            return self._base.read(name, axis, pieces, entry, rows)
        if entry is not None:
            x = _cut(self.read(name, rows=(entry, entry + 1))[0], axis, pieces)
            return x if rows is None else x[slice(*rows)]
        whole = self.shape(name)
        if axis == 0:
            pieces = part([(0, whole[0])] if pieces is None else pieces, *(rows or (0, whole[0])))
            rows = None
        x = self._sum(change, axis, pieces, rows)
        if change.product is not None and change.product.magnitude is not None:
            outputs = int(change.product.transposed)
            factor = self._factor(change)
            if axis == outputs:
                factor = _cut(factor, 0, pieces)
            elif rows is not None:
                factor = factor[slice(*rows)]
            x *= factor.unsqueeze(1 - outputs)
        return x

    def _lengthened(self, change: Change) -> Tensor:
        """By how much each output of a matrix with its product becomes longer, `[out]`: whole outputs have a length."""
        assert change.product is not None and change.product.magnitude is not None
        inputs = 0 if change.product.transposed else 1
        lengths: Tensor = torch.linalg.vector_norm(self._sum(change, 0), dim=inputs)
        return self._tensor(change.product.magnitude) / lengths

    def _sum(self, change: Change, axis: int, pieces: Sequence[Span] | None = None, rows: Span | None = None) -> Tensor:
        """What a change begins with and all that is added to it."""
        x = self._start(change, axis, pieces, rows)
        if change.rows is not None:
            self._set_rows(x, *change.rows, axis, pieces, rows or (0, len(x)))
        if change.product is not None:
            self._add(x, change.product, axis, pieces, rows)
        if change.vector is not None:
            vector, scale = change.vector
            x += _cut(self._tensor(vector), 0, pieces) * scale
        return x

    def _source(self, change: Change) -> str:
        return found(change.source, self._adapter.spec.prefixes, self._base) or change.source

    def _start(self, change: Change, axis: int, pieces: Sequence[Span] | None, rows: Span | None) -> Tensor:
        if change.replacement is not None:
            return self._own.read(change.replacement, axis, pieces, rows=rows).to(torch.float32, copy=True)
        return self._base.read(self._source(change), axis, pieces, rows=rows).to(torch.float32, copy=True)

    def _add(self, x: Tensor, product: Product, axis: int, pieces: Sequence[Span] | None, rows: Span | None) -> None:
        """Add to the rows or columns of a matrix what belongs there."""
        down, up = self._tensor(product.down), self._tensor(product.up)
        left, right = (down.T, up.T) if product.transposed else (up, down)
        if axis == 0:
            left = _cut(left, 0, pieces)
        else:
            left, right = left if rows is None else left[slice(*rows)], _cut(right, 1, pieces)
        for some, theirs in zip(torch.split(x, _ROWS), torch.split(left, _ROWS), strict=True):
            some += (theirs @ right).mul_(product.scale)

    def _set_rows(
        self, x: Tensor, name: str, indices: Sequence[int], axis: int, pieces: Sequence[Span] | None, rows: Span
    ) -> None:
        """Put the rows of a tensor of the adapter in the places of those with these numbers."""
        new = self._tensor(name)
        if axis == 0:
            numbers = torch.cat([torch.arange(*piece) for piece in pieces or [rows]])
        else:
            numbers, new = torch.arange(*rows), _cut(new, 1, pieces)
        for index, row in zip(indices, new, strict=True):
            x[numbers == index] = row

    def _read_own(self, name: str) -> Tensor:
        return self._own.read(name).float()


def _cut(x: Tensor, axis: int, pieces: Sequence[Span] | None) -> Tensor:
    return x if pieces is None else torch.cat([x.narrow(axis, start, stop - start) for start, stop in pieces], axis)
