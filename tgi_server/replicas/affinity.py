"""Which replica gets a request: what it has seen of the prompt against how busy it is. Stdlib only, no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Generic, TypeVar

CAPACITY = 1 << 16
"""Keys remembered of a replica: with `prompt.CHUNK` characters each, of some millions of characters."""
MARGIN = 8
"""Requests by which a replica may be busier than the least busy one, at most, and still be chosen for what it has seen.
"""
WORTH = 6.0
"""Keys of a prompt's beginning that are worth a wait behind one more request: some 100 tokens."""

R = TypeVar("R", bound=Hashable)


class Affinity(Generic[R]):
    """Remembers of each replica which beginnings of prompts it was given last.

    A prompt is a sequence of keys, one for each chunk of its text, where a key stands for all of the text up to there
    (`prompt.keys`): two prompts have as much of their beginning in common as they have first keys.

    Args:
        margin: see `MARGIN`.
        capacity: see `CAPACITY`; the least recently used keys are forgotten, of one prompt the last ones first.
    """

    def __init__(self, margin: float = MARGIN, capacity: int = CAPACITY) -> None:
        self._margin = margin
        self._capacity = capacity
        self._seen: dict[R, OrderedDict[Hashable, None]] = {}
        self._owners: dict[Hashable, set[R]] = {}
        self._given: dict[R, int] = {}  # the number of the last prompt
        self._numbers = count(1)

    def choose(self, keys: Sequence[Hashable], loads: Mapping[R, float]) -> R:
        """The replica for a prompt, which is not remembered by this.

        The one with the fewest requests under way, where every `WORTH` keys that a replica has seen of the prompt's
        beginning count as one request less, unless it is ahead by more than the margin. Of equals the least busy one,
        and where that leaves several, the one that was given nothing for longest, so that new prompts are spread.

        Args:
            keys: of the prompt; none where nothing is known of it.
            loads: requests under way of each replica that may be chosen, at least one.
        """
        least = min(loads.values())
        seen = self._matches(keys, [replica for replica, load in loads.items() if load <= least + self._margin])
        candidates = [replica for replica, load in loads.items() if load == least or replica in seen]

        def cost(replica: R) -> tuple[float, float, int]:
            load = loads[replica]
            return load - seen.get(replica, 0) / WORTH, load, self._given.get(replica, 0)

        return min(candidates, key=cost)

    def matched(self, keys: Sequence[Hashable], replica: R) -> int:
        """How many of the first keys the replica has seen."""
        seen: Collection[Hashable] = self._seen.get(replica, ())
        return next((index for index, key in enumerate(keys) if key not in seen), len(keys))

    def add(self, replica: R, keys: Sequence[Hashable]) -> None:
        """Remember that a replica was given a prompt."""
        self._given[replica] = next(self._numbers)
        seen: OrderedDict[Hashable, None] = self._seen.setdefault(replica, OrderedDict())
        for key in reversed(keys):  # the beginning is used last, and so forgotten last
            seen[key] = None
            seen.move_to_end(key)
            self._owners.setdefault(key, set()).add(replica)
        while len(seen) > self._capacity:
            self._disown(replica, [seen.popitem(last=False)[0]])

    def forget(self, replica: R) -> None:
        """A replica is gone, and its cache with it."""
        self._given.pop(replica, None)
        self._disown(replica, self._seen.pop(replica, ()))

    def __iter__(self) -> Iterator[R]:
        """The replicas that were given something."""
        return iter(list(self._seen))

    def _matches(self, keys: Sequence[Hashable], eligible: Sequence[R]) -> dict[R, int]:
        """How many of the first keys each of the eligible has seen, of those that have seen any."""
        found: dict[R, int] = {}
        left = list(eligible)
        for number, key in enumerate(keys, 1):
            owners = self._owners.get(key, ())
            left = [replica for replica in left if replica in owners]
            if not left:
                break
            found.update(dict.fromkeys(left, number))
        return found

    def _disown(self, replica: R, keys: Iterable[Hashable]) -> None:
        for key in keys:
            owners = self._owners[key]
            owners.discard(replica)
            if not owners:
                del self._owners[key]
