"""What a kind of rotary positions (RoFormer, arXiv:2104.09864) is, and what it is read from. Stdlib only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Entry:
    """What config.json says of one kind.

    Attributes:
        numbers: its own numbers, `rope_parameters` or `rope_scaling`.
        head_width: of a whole head.
        theta: base of the wavelengths.
        partial: part of a head that turns.
        max_positions: longest text of the model as it is written there; None when it is not.
    """

    numbers: Mapping[str, Any]
    head_width: int
    theta: float
    partial: float
    max_positions: int | None

    @property
    def turned(self) -> int:
        """Numbers of a head that turn."""
        return int(self.head_width * self.partial)

    def number(self, name: str, default: float | None = None) -> float:
        """A number of its own; KeyError for one that is missing and has no default."""
        value = self.numbers.get(name)
        if value is None:
            if default is None:
                raise KeyError(name)
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r:.60} (a number above 0 is expected)")
        return float(value)

    @property
    def original(self) -> int:
        """Longest text before positions were stretched; that of the model where nothing else is written."""
        value = self.numbers.get("original_max_position_embeddings") or self.max_positions
        if value is None:
            raise KeyError("original_max_position_embeddings")
        return int(value)


class Rope(Protocol):
    """A kind, with its numbers. One class a file of this package, found by itself.

    Attributes:
        names: how config.json spells the kind.
        by_length: whether angles depend on the length of the text beside the position.
        turned: how many numbers of a head turn.
        attention_scale: factor of all cosines and sines.
    """

    names: ClassVar[tuple[str, ...]]
    by_length: ClassVar[bool]

    @property
    def turned(self) -> int: ...  # noqa: D102

    @property
    def attention_scale(self) -> float: ...  # noqa: D102

    @classmethod
    def read(cls, entry: Entry) -> Rope:
        """From what config.json says; raises KeyError for a missing number, ValueError for one that cannot be."""
        ...

    def longest(self, written: int) -> int:
        """Positions that a text may have, of a model whose configuration says `written`."""
        ...

    def frequencies(self, lengths: Tensor | None = None, limits: Tensor | None = None) -> Tensor:
        """Angle per position of each pair of numbers, float32 `[turned / 2]`.

        With `lengths` and `limits` (int64 `[tokens]`: the length that a token's text had when the token was computed
        first, and the most it may ever have), of a kind that depends on them, `[tokens, turned / 2]`.
        """
        ...


def exponents(turned: int) -> Tensor:
    """0 to 1 in steps of 2 / turned, float32 `[turned / 2]`."""
    import torch

    return torch.arange(0, turned, 2, dtype=torch.int64).float() / turned
