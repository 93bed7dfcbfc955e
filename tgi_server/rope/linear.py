"""Positions divided by a factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.rope.base import Entry, exponents

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LinearRope:
    """Position interpolation, arXiv:2306.15595."""

    names: ClassVar[tuple[str, ...]] = ("linear",)
    by_length: ClassVar[bool] = False
    attention_scale: ClassVar[float] = 1.0
    turned: int
    theta: float
    factor: float

    @classmethod
    def read(cls, entry: Entry) -> LinearRope:
        """See `Rope`."""
        return cls(entry.turned, entry.theta, entry.number("factor"))

    def longest(self, written: int) -> int:
        """See `Rope`."""
        return int(written * self.factor)

    def frequencies(self, lengths: Tensor | None = None, limits: Tensor | None = None) -> Tensor:
        """See `Rope`."""
        return 1.0 / (self.theta ** exponents(self.turned)) / self.factor
