"""Token embedding and output head, their rows spread over the ranks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tgi_server.layers.parallel import Group

Lookup = Callable[[Tensor], Tensor]
"""Gives rows of a matrix by their numbers (int64 `[n]`)."""


class VocabularyEmbedding:
    """Rows `[start, stop)` of the embedding matrix; ids of other ranks contribute zeros to the sum.

    Args:
        vectors: gives rows by their numbers, from `start` on.
    """

    def __init__(self, vectors: Lookup, start: int, stop: int, group: Group) -> None:
        self._vectors = vectors
        self._start, self._stop = start, stop
        self._group = group

    def __call__(self, ids: Tensor) -> Tensor:
        """Token ids `[tokens]` to float32 vectors `[tokens, hidden]`."""
        if self._group.world == 1:
            return self._vectors(ids).float()
        mine = (ids >= self._start) & (ids < self._stop)
        vectors = self._vectors((ids - self._start).where(mine, ids.new_zeros(()))).float()
        return self._group.all_reduce(vectors.masked_fill_(~mine.unsqueeze(-1), 0.0))
