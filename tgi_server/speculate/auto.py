"""Who guesses when nobody says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tgi_server.speculate.base import Drafter, Surroundings
from tgi_server.speculate.ngram import NGram


@dataclass
class Auto:
    """The heads that came with the model, where there are any; else n-grams, which every model can do."""

    uses_heads: ClassVar[bool] = True

    def drafter(self, surroundings: Surroundings) -> Drafter:
        """What guesses for a shard."""
        if surroundings.heads is None:
            return NGram().drafter(surroundings)
        from tgi_server.speculate.medusa import load

        return load(surroundings, surroundings.heads, surroundings.most)
