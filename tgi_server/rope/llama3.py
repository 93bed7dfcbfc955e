"""The scaling of Llama 3.1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.rope.base import Entry, exponents

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """Long wavelengths are divided by `factor`, short ones kept, those between blended linearly (arXiv:2407.21783)."""

    names: ClassVar[tuple[str, ...]] = ("llama3",)
    by_length: ClassVar[bool] = False
    attention_scale: ClassVar[float] = 1.0
    turned: int
    theta: float
    factor: float
    low: float
    high: float
    original: int

    @classmethod
    def read(cls, entry: Entry) -> Llama3Rope:
        """See `Rope`."""
        factor, low, high = (entry.number(name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
        if low >= high:
            raise ValueError(f"low_freq_factor={low:g} is not below high_freq_factor={high:g}")
        return cls(entry.turned, entry.theta, factor, low, high, entry.original)

    def longest(self, written: int) -> int:
        """See `Rope`."""
        return written

    def frequencies(self, lengths: Tensor | None = None, limits: Tensor | None = None) -> Tensor:
        """See `Rope`."""
        frequencies = 1.0 / (self.theta ** exponents(self.turned))
        turns = self.original * frequencies / (2 * math.pi)
        keep = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        return frequencies / self.factor * (1 - keep) + frequencies * keep
