"""YaRN, arXiv:2309.00071."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.rope.base import Entry, exponents

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class YarnRope:
    """Wavelengths that turn less than `slow` times in `original` positions are stretched, those above `fast` kept.

    `truncate` rounds the numbers of the pairs between which the two are blended to whole ones.
    """

    names: ClassVar[tuple[str, ...]] = ("yarn",)
    by_length: ClassVar[bool] = False
    turned: int
    theta: float
    factor: float
    original: int
    fast: float
    slow: float
    truncate: bool
    attention_scale: float

    @classmethod
    def read(cls, entry: Entry) -> YarnRope:
        """See `Rope`."""
        if entry.theta <= 1:
            raise ValueError(f"rope_theta={entry.theta:g} is not above 1")
        ratio = entry.max_positions / entry.original if entry.max_positions else None
        factor = entry.number("factor", ratio)
        numbers = entry.numbers
        fast, slow = entry.number("beta_fast", 32.0), entry.number("beta_slow", 1.0)
        if entry.original < 1:
            raise ValueError(f"original_max_position_embeddings={entry.original} (at least 1 is expected)")
        truncate = numbers.get("truncate")
        scale = numbers.get("attention_factor")
        return cls(
            entry.turned, entry.theta, factor, entry.original, fast, slow,
            truncate=True if truncate is None else bool(truncate),
            attention_scale=_attention_scale(entry, factor) if scale is None else float(scale),
        )  # fmt: skip

    def longest(self, written: int) -> int:
        """See `Rope`; some configurations say what was trained, others what can be reached."""
        return max(written, int(self.original * self.factor))

    def frequencies(self, lengths: Tensor | None = None, limits: Tensor | None = None) -> Tensor:
        """See `Rope`."""
        import torch

        wavelengths = self.theta ** exponents(self.turned)
        low, high = self._pair(self.fast), self._pair(self.slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.turned - 1)
        pairs = torch.arange(self.turned // 2, dtype=torch.float32)
        stretched = ((pairs - low) / (high - low if high != low else 0.001)).clamp(0, 1)
        return 1.0 / (self.factor * wavelengths) * stretched + 1.0 / wavelengths * (1 - stretched)

    def _pair(self, turns: float) -> float:
        """The pair that turns so often in the original length, as a fraction of a number."""
        wavelengths = math.log(self.original / (turns * 2 * math.pi))
        return self.turned * wavelengths / (2 * math.log(self.theta))


def _attention_scale(entry: Entry, factor: float) -> float:
    """As the paper suggests, or the ratio of two such that DeepSeek's models name."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    over, under = entry.numbers.get("mscale"), entry.numbers.get("mscale_all_dim")
    return scale(float(over)) / scale(float(under)) if over and under else scale(1.0)
