"""What guesses tokens ahead, for the model to check several of them in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Drafter(Protocol):
    """Proposes how texts go on. A wrong proposal costs time and changes nothing: the sampler decides."""

    def propose(self, known: IntArray, most: int) -> Sequence[int]:
        """The `most` tokens, or fewer, that may follow `known` (int64, a sequence's prompt and generated tokens).

        Deterministic, so that every rank of a model proposes the same.
        """
        ...
