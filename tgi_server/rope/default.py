"""Rotary positions as they were published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.rope.base import Entry, exponents

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class DefaultRope:
    """Angle `position / theta^(2i / turned)`, arXiv:2104.09864."""

    names: ClassVar[tuple[str, ...]] = ("default",)
    by_length: ClassVar[bool] = False
    attention_scale: ClassVar[float] = 1.0
    turned: int
    theta: float

    @classmethod
    def read(cls, entry: Entry) -> DefaultRope:
        """See `Rope`."""
        return cls(entry.turned, entry.theta)

    def longest(self, written: int) -> int:
        """See `Rope`."""
        return written

    def frequencies(self, lengths: Tensor | None = None, limits: Tensor | None = None) -> Tensor:
        """See `Rope`."""
        return 1.0 / (self.theta ** exponents(self.turned))
