"""What guesses tokens ahead, for the model to check several of them in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

IntArray = npt.NDArray[np.int64]


class Drafter(Protocol):
    """Proposes how texts go on. A wrong proposal costs time and changes nothing: the sampler decides.

    In every step that may guess, `chances` is asked about each sequence first; who decides how many guesses pay then
    asks `guess` for that many. Whatever was guessed, `learn` tells what came. All of it is deterministic, so that every
    rank of a model guesses the same.
    """

    def chances(self, id: int, known: IntArray, most: int) -> Sequence[float]:
        """How likely each of the next guesses of a sequence is right, given that those before it are.

        Args:
            id: of the sequence.
            known: its tokens, prompt and generated; the array is changed later.
            most: guesses that can be used at most. The answer may be shorter, or empty where there is nothing to guess.
        """
        ...

    def guess(self, widths: Mapping[int, int]) -> dict[int, list[int]]:
        """So many tokens of each sequence, not more than the last `chances` told of it."""
        ...

    def learn(self, id: int, taken: Sequence[int]) -> None:
        """The tokens that followed what `chances` was last asked about, whether they had been guessed or not."""
        ...

    def see(self, ids: Sequence[int], hidden: Tensor) -> None:
        """The model's last hidden states `[len(ids), hidden]`, from which the newest token of each sequence came."""
        ...

    def forget(self, id: int) -> None:
        """A sequence is over; it may be unknown."""
        ...
