"""An earlier passage that a text repeats with changes."""

from __future__ import annotations

from collections.abc import Sequence

from tgi_server.speculate.history import Match

BEGUN = 6
"""So many ids that occurred in a row before are a passage being repeated."""
AHEAD = 6
"""How many ids of the passage may be left out at once."""
CHANGES = 4
"""After so many ids in a row that the passage does not have, it is given up."""


class Passage:
    """The earlier place that the newest id stands for, followed over ids that were replaced, left out or put in.

    Attributes:
        end: the position of the id there; -1 while nothing is repeated.
        length: how many newest ids are the same as there; 0 where the newest one took the place of another.
    """

    __slots__ = ("_changed", "_changes", "end", "length")

    def __init__(self) -> None:
        self.end = -1
        self.length = 0
        self._changed = 0  # where the passage and the text began to differ last
        self._changes = 0  # ids since then that the passage does not have

    def follow(self, ids: Sequence[int], known: int) -> None:
        """The text's ids from position `known` on are new."""
        for newest in range(known, len(ids)):
            if self.end < 0:
                return
            if ids[self.end + 1] == ids[newest]:
                self.end += 1
                self.length += 1
            else:
                self._change(ids, newest)

    def _change(self, ids: Sequence[int], newest: int) -> None:
        """The newest id is not the next one: find it near, or take it for a replaced one as long as there are few."""
        if self.length > 1:
            self._changed, self._changes = self.end + 1, 0
        self._changes += 1
        near = ids[self._changed : min(self.end + 1 + AHEAD, newest)]
        if self._changes > CHANGES:
            self.end = -1
        elif ids[newest] in near:
            self.end, self.length = self._changed + near.index(ids[newest]), 1
        else:
            self.end, self.length = self.end + 1, 0

    def begin(self, matches: Sequence[Match]) -> None:
        """Follow the longest of these where it is longer than what is followed now."""
        for end, length in matches:
            if length >= BEGUN and (length > self.length or self.end < 0):
                self.end, self.length, self._changes = end, length, 0
