"""A text's ids so far, and where the newest of them occurred before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgi_server.rope.table import IntArray

LONGEST = 16
"""Matches of more ids are told as these."""
BITS = 32
"""Of an id."""

Match = tuple[int, int]
"""The position of the last id, and how many match."""


class _Runs:
    """Where each run of `length` ids ended last.

    Attributes:
        before: for each position, where the run that ends there ended before, or -1.
    """

    __slots__ = ("_ends", "_key", "_mask", "before", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        self._mask = (1 << BITS * length) - 1
        self._key = self._mask  # no id has all bits set, so that nothing matches across the beginning
        self._ends: dict[int, int] = {}
        self.before: list[int] = []

    def extend(self, ids: Sequence[int]) -> None:
        """The next ids of the text."""
        key, mask, ends, before = self._key, self._mask, self._ends, self.before
        for end, id in enumerate(ids, len(before)):
            key = (key << BITS | id) & mask
            before.append(ends.get(key, -1))
            ends[key] = end
        self._key = key

    def ends(self) -> Iterator[int]:
        """Where the newest run ended before, latest first."""
        end = self.before[-1]
        while end >= 0:
            yield end
            end = self.before[end]


class History:
    """The ids of one text, indexed as it grows: every id is looked at once, and takes a few hundred bytes.

    Args:
        lengths: of the runs that can be looked up, ascending.
    """

    __slots__ = ("_runs", "ids")

    def __init__(self, lengths: Sequence[int]) -> None:
        self.ids: list[int] = []
        self._runs = [_Runs(length) for length in lengths][::-1]

    def extend(self, known: IntArray) -> None:
        """Take in what is new of `known`."""
        new = known[len(self.ids) :].tolist()
        self.ids += new
        for runs in self._runs:
            runs.extend(new)

    def matches(self, most: int) -> list[Match]:
        """The latest places, not more than `most`, where the longest run of newest ids that is found occurred before.

        Latest first. They match in more ids than those of the run, but in fewer than those of the next longer one.
        """
        longer = LONGEST + 1
        for runs in self._runs:
            if runs.before[-1] >= 0:
                return [(end, self._length(end, runs.length, longer)) for end in islice(runs.ends(), most)]
            longer = runs.length
        return []

    def _length(self, end: int, least: int, longer: int) -> int:
        """How many ids up to position `end` are the newest ones: `least` or more, fewer than `longer`."""
        ids = self.ids
        if longer > LONGEST <= end and ids[end + 1 - LONGEST : end + 1] == ids[-LONGEST:]:
            return LONGEST
        newest, longer = len(ids) - 1, min(longer, end + 2)
        while (least := least + 1) < longer and ids[end + 1 - least] == ids[newest + 1 - least]:
            pass
        return least - 1

    def following(self, end: int, most: int) -> list[int]:
        """The `most` ids behind position `end`; behind the newest one, the text goes on as it did from there."""
        found = self.ids[end + 1 : end + 1 + most]
        return found if len(found) == most else (found * (most // len(found) + 1))[:most]
