"""Index arithmetic: which rows and slots the positions of a step are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tgi_server.rope.table import IntArray
from tgi_server.types import BLOCK_SIZE


class Rows(NamedTuple):
    """Where a step's positions are in the matrices, int64.

    Attributes:
        rows, counts, contexts: `[sequences]`, and of them the new positions, and the positions after the step.
        starts: `[sequences + 1]`, the first row of each in the flattened step.
        row_of, positions: `[tokens]`.
    """

    rows: IntArray
    counts: IntArray
    contexts: IntArray
    starts: IntArray
    row_of: IntArray
    positions: IntArray

    @classmethod
    def of(cls, rows: IntArray, computed: IntArray, counts: IntArray) -> Rows:
        """Of `counts` positions that follow the `computed` ones."""
        if counts.max() == 1:  # a decode step, as most are
            return cls(rows, counts, computed + 1, np.arange(len(rows) + 1), rows, computed)
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        positions = np.arange(starts[-1]) + np.repeat(computed - starts[:-1], counts)
        return cls(rows, counts, computed + counts, starts, np.repeat(rows, counts), positions)


def slots_of(tables: IntArray, rows: IntArray, positions: IntArray) -> IntArray:
    """block * BLOCK_SIZE + offset."""
    slots: IntArray = tables[rows, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
    return slots


def last_of(stops: IntArray, counts: IntArray | None) -> IntArray:
    """The last `counts[i]` numbers before `stops[i]`, one after the other; None for one of each."""
    if counts is None:
        return stops - 1
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(stops - ends, counts)
