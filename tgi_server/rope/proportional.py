"""Whole heads of which only the first pairs turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.rope.base import Entry, exponents

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ProportionalRope:
    """Wavelengths and layout are those of whole heads (Gemma 4): pairs beyond the part `partial` stand still."""

    names: ClassVar[tuple[str, ...]] = ("proportional",)
    by_length: ClassVar[bool] = False
    attention_scale: ClassVar[float] = 1.0
    turned: int
    theta: float
    moving: int
    factor: float

    @classmethod
    def read(cls, entry: Entry) -> ProportionalRope:
        """See `Rope`."""
        moving = int(entry.partial * entry.head_width // 2)
        return cls(entry.head_width, entry.theta, moving, entry.number("factor", 1.0))

    def longest(self, written: int) -> int:
        """See `Rope`."""
        return written

    def frequencies(self, lengths: Tensor | None = None, limits: Tensor | None = None) -> Tensor:
        """See `Rope`."""
        frequencies = 1.0 / (self.theta ** exponents(self.turned)) / self.factor
        frequencies[self.moving :] = 0.0
        return frequencies
