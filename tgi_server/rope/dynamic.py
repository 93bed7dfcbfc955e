"""A base that grows with the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.rope.base import Entry, exponents

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class DynamicRope:
    """ "Dynamic NTK": beyond `original` positions the base follows the length of the text, as transformers computes it.

    A token turns by the length its text had when it was computed first: that of the prompt for a prompt's tokens, its
    own position's for later ones. So a text does not depend on its company in the batch.
    """

    names: ClassVar[tuple[str, ...]] = ("dynamic",)
    by_length: ClassVar[bool] = True
    attention_scale: ClassVar[float] = 1.0
    turned: int
    theta: float
    factor: float
    original: int

    @classmethod
    def read(cls, entry: Entry) -> DynamicRope:
        """See `Rope`; the model's own length counts as the original one."""
        if entry.max_positions is None:
            raise KeyError("max_position_embeddings")
        if entry.turned <= 2:
            raise ValueError(f"{entry.turned} numbers of a head turn, too few for dynamic scaling")
        return cls(entry.turned, entry.theta, entry.number("factor"), entry.max_positions)

    def longest(self, written: int) -> int:
        """See `Rope`."""
        return int(written * self.factor)

    def frequencies(self, lengths: Tensor | None = None, limits: Tensor | None = None) -> Tensor:
        """See `Rope`."""
        if lengths is None:
            return 1.0 / (self.theta ** exponents(self.turned))
        stretch = self.factor * lengths.clamp(min=self.original).double() / self.original - (self.factor - 1)
        base = self.theta * stretch ** (self.turned / (self.turned - 2))
        return 1.0 / (base.float().unsqueeze(1) ** exponents(self.turned).to(lengths.device))
