"""N-gram: the newest ids go on as they did when they occurred before (what the option `speculate` is documented as)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tgi_server.config.base import option
from tgi_server.speculate.base import Drafter, Surroundings
from tgi_server.speculate.history import LONGEST
from tgi_server.speculate.lookup import LookUp

PLACES = 2
"""The latest one, and one that confirms it or does not."""


@dataclass
class NGram:
    """Guesses what followed the latest place where as many of the newest ids as possible occurred."""

    uses_heads: ClassVar[bool] = False

    longest: int = option(
        4,
        "How many of the newest ids are looked up in the text so far; the newest two are when they are new together, "
        "or the newest one.",
        minimum=1, maximum=LONGEST,
    )  # fmt: skip

    def drafter(self, surroundings: Surroundings) -> Drafter:
        """What guesses for a shard."""
        return LookUp(sorted({1, min(2, self.longest), self.longest}), PLACES)
