"""LongRoPE, arXiv:2402.13753."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.rope.base import Entry, exponents

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LongRope:
    """Each wavelength has a factor of its own, another one for texts that may get longer than `original`.

    What decides is the longest that a text may get, prompt and answer: cached keys never turn again, and a text whose
    tokens turn by both lists falls apart (transformers computes the whole text again where it gets longer).
    """

    names: ClassVar[tuple[str, ...]] = ("longrope", "su")
    by_length: ClassVar[bool] = True
    turned: int
    theta: float
    original: int
    short: tuple[float, ...]
    long: tuple[float, ...]
    attention_scale: float

    @classmethod
    def read(cls, entry: Entry) -> LongRope:
        """See `Rope`."""
        short, long = (tuple(map(float, entry.numbers[name])) for name in ("short_factor", "long_factor"))
        for name, factors in (("short_factor", short), ("long_factor", long)):
            if len(factors) != entry.turned // 2:
                raise ValueError(f"{name} has {len(factors)} numbers, {entry.turned // 2} are needed")
            if not all(0 < factor < math.inf for factor in factors):
                raise ValueError(f"{name} has numbers that are not above 0")
        scale = entry.numbers.get("attention_factor")
        scale = _attention_scale(entry) if scale is None else float(scale)
        return cls(entry.turned, entry.theta, entry.original, short, long, scale)

    def longest(self, written: int) -> int:
        """See `Rope`."""
        return written

    def frequencies(self, lengths: Tensor | None = None, limits: Tensor | None = None) -> Tensor:
        """See `Rope`."""
        import torch

        wavelengths = self.theta ** exponents(self.turned)
        short, long = (1.0 / (torch.tensor(factors) * wavelengths) for factors in (self.short, self.long))
        if limits is None:
            return short
        return torch.where((limits > self.original).unsqueeze(1), long.to(limits.device), short.to(limits.device))


def _attention_scale(entry: Entry) -> float:
    ratio = entry.max_positions / entry.original if entry.max_positions else 1.0
    factor = entry.number("factor", ratio)
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(entry.original))
