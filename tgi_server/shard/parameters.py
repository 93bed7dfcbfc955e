"""How the known sequences get their tokens, ready to be taken for a step without looking at each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tgi_server.kernels.sampling import ROW, Bias, Records
from tgi_server.rope.table import IntArray
from tgi_server.types import SamplingParams

_SAME = [name for name in ROW.names or () if name in SamplingParams.__slots__ and name != "guide"]
_NONE: tuple[IntArray, npt.NDArray[np.float32]] = (np.zeros(0, np.int64), np.zeros(0, np.float32))


class Parameters:
    """Those of the sequences of a `BatchState`, in its rows."""

    def __init__(self, rows: int) -> None:
        self._records: Records = np.zeros(rows, ROW)
        self._biases: dict[int, tuple[IntArray, npt.NDArray[np.float32]]] = {}

    def put(self, row: int, params: SamplingParams, prompt: int) -> None:
        """Take in a sequence, whose text begins with `prompt` tokens that are not generated."""
        record = self._records[row]
        for name in _SAME:
            record[name] = getattr(params, name)
        record["source"], record["prompt"], record["guide"] = row, prompt, -1
        record["draws"] = params.samples
        self._biases.pop(row, None)
        if params.logit_bias:
            ids, values = zip(*params.logit_bias.items(), strict=True)
            self._biases[row] = np.array(ids, np.int64), np.array(values, np.float32)

    def drop(self, row: int) -> None:
        """Forget a sequence."""
        self._biases.pop(row, None)

    def grow(self) -> None:
        """Make room for twice as many."""
        self._records = np.concatenate([self._records, np.zeros_like(self._records)])

    def records(self, rows: IntArray, known: IntArray, previous: IntArray) -> Records:
        """Copies for `rows`, one for each place that gets a token: after `known` ids, the last of them `previous`."""
        records = self._records[rows]
        records["known"] = records["position"] = known
        records["previous"] = previous
        return records

    def bias(self, rows: IntArray) -> Bias | None:
        """That of `rows`; None where none has any."""
        if not self._biases:
            return None
        each = [self._biases.get(row, _NONE) for row in rows.tolist()]
        return Bias(_starts([len(ids) for ids, _ in each]), *map(np.concatenate, zip(*each, strict=True)))


def _starts(counts: Sequence[int]) -> IntArray:
    return np.cumsum([0, *counts], dtype=np.int64)
