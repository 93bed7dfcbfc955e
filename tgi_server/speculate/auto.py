"""Who guesses when nobody says."""

from __future__ import annotations

from dataclasses import dataclass

from tgi_server.speculate.base import Drafter, Surroundings
from tgi_server.speculate.ngram import NGram


@dataclass
class Auto:
    """N-grams, which every model can do."""

    def drafter(self, surroundings: Surroundings) -> Drafter:
        """What guesses for a shard."""
        return NGram().drafter(surroundings)
