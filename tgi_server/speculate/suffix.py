"""Suffix matching: the text goes on as it mostly did where its end occurred before (the idea of arXiv:2411.04975)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tgi_server.config.base import option
from tgi_server.speculate.base import Drafter, Surroundings
from tgi_server.speculate.lookup import LookUp

RUNS = 1, 2, 4
"""Lengths of the runs of ids that are looked up; how long a match is, is seen where one is found."""


@dataclass
class Suffix:
    """Guesses what followed most often where the end of the text so far occurred before."""

    uses_heads: ClassVar[bool] = False

    places: int = option(
        4, "How many earlier places that end like the text so far are asked how it goes on, the latest ones.",
        minimum=1, maximum=64,
    )  # fmt: skip

    def drafter(self, surroundings: Surroundings) -> Drafter:
        """What guesses for a shard."""
        return LookUp(RUNS, self.places)
