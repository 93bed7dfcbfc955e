"""What an architecture's file says: config.json, and where each tensor of the checkpoint is in a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = Callable[[int], NDArray[np.intp]]
"""Of so many stored rows (of all the tensors that are joined, one after the other), those wanted, in their order."""
_SUFFIXES = {".weight": ".weight", ".bias": ".bias"}


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the checkpoint, in every block where its name has a `{bid}`.

    Attributes:
        name: in transformers' checkpoints, without `.weight` and `.bias`. With an `{xid}` it is one of many: the
            stored tensor has an axis for them.
        stored: the GGUF tensors that it is made of; where empty, the one that the `gguf` package's table gives.
        rows: what has to be done to the rows (to the values of a vector).
        transposed: whether a matrix is stored `[out, in]` and wanted `[in, out]`.
        offset: what was added to it.
        lifted: whether a vector is wanted as a matrix of one row.
        suffixes: what stands behind the GGUF name, and what behind the name here.
    """

    name: str
    stored: tuple[str, ...] = ()
    rows: Rows | None = None
    transposed: bool = False
    offset: float = 0.0
    lifted: bool = False
    suffixes: Mapping[str, str] = field(default_factory=lambda: _SUFFIXES)


@dataclass(frozen=True, slots=True)
class Model:
    """A model under the names of transformers.

    Attributes:
        name: of transformers' class.
        config: entries of config.json.
        weights: its tensors. Those that the architecture does not have, and biases, may be missing in the file.
        read: tensors of the file that are not weights: what is in them is in the configuration.
    """

    name: str
    config: Mapping[str, Any]
    weights: tuple[Weight, ...]
    read: frozenset[str] = frozenset()


def unturned(heads: int) -> Rows:
    """Rows of rotary heads: llama.cpp turns neighbours (0 with 1, 2 with 3), transformers i with i + half a head."""

    def rows(count: int) -> NDArray[np.intp]:
        return np.arange(count).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)

    return rows


def joined(*parts: tuple[int, Rows | None]) -> Rows:
    """Tensors of so many rows one after the other, each with its own order."""

    def rows(count: int) -> NDArray[np.intp]:
        if (whole := sum(size for size, _ in parts)) != count:
            raise ValueError(f"{whole} rows expected")
        orders, start = [], 0
        for size, order in parts:
            orders.append(start + (np.arange(size) if order is None else order(size)))
            start += size
        return np.concatenate(orders)

    return rows


def part(first: int, last: int) -> Rows:
    """Some of the rows."""

    def rows(count: int) -> NDArray[np.intp]:
        if last > count:
            raise ValueError(f"at least {last} rows expected")
        return np.arange(first, last)

    return rows


def grouped(groups: int, queries: int, width: int) -> Rows:
    """All queries, all keys, all values become the queries, the key and the value of one group after the other."""

    def rows(count: int) -> NDArray[np.intp]:
        sizes = groups * queries * width, groups * width, groups * width
        if sum(sizes) != count:
            raise ValueError(f"{sum(sizes)} rows expected")
        pieces = np.split(np.arange(count), np.cumsum(sizes)[:2])
        return np.concatenate([piece.reshape(groups, -1) for piece in pieces], axis=1).reshape(-1)

    return rows


def alternating(count: int) -> NDArray[np.intp]:
    """Of two tensors of the same size a row each, in turn."""
    return np.arange(count).reshape(2, -1).swapaxes(0, 1).reshape(-1)
