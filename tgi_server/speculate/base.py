"""What guesses tokens ahead, for the model to check several of them in one step.

Imports no torch and no numpy: the launcher checks the part `speculation` by these classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.row import Needs
    from tgi_server.layers.parallel import Group
    from tgi_server.models.description import Description
    from tgi_server.models.model import Model
    from tgi_server.rope.table import IntArray

Drafts = Mapping[int, Sequence[int]]
"""The guessed tokens of sequences, by id; none of them empty."""


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

    def see(self, ids: Sequence[int], hidden: Tensor, rows: Sequence[int]) -> None:
        """After each step: the newest token of sequence `ids[i]` came from the model's last hidden state `rows[i]`.

        `hidden [rows of the step, hidden size]` is overwritten by the next step.
        """
        ...

    def forget(self, id: int) -> None:
        """A sequence is over; it may be unknown."""
        ...

    def seconds(self, sequences: int) -> float:
        """What `chances` and `guess` take by themselves for so many sequences, measured now."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a drafter can build on.

    Attributes:
        model: whose tokens are guessed.
        spec: its description.
        group: the ranks of the model.
        needs: what the model computes on.
        heads: directory of drafting heads that came with the checkpoint; None where there are none.
        most: tokens that are guessed of a sequence at most.
    """

    model: Model
    spec: Description
    group: Group
    needs: Needs
    heads: Path | None = None
    most: int | None = None


class Speculation(Protocol):
    """The part `speculation`: its fields are the drafter's options.

    Attributes:
        uses_heads: whether it guesses by the heads of a checkpoint that has some.
    """

    uses_heads: ClassVar[bool]

    def drafter(self, surroundings: Surroundings) -> Drafter:
        """A drafter for one rank. Raises ModelError for heads that do not fit the model."""
        ...
