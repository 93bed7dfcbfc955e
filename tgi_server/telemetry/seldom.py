"""What would be told again and again is told now and then: what fails for ever must not fill the disk."""

from __future__ import annotations

import time
from collections.abc import Callable

SILENCE = 60.0
"""Seconds in which the same thing is not told again."""
_KNOWN = 64
"""Things that are remembered, the latest."""


def since_last(count: int) -> str:
    """What a line says of those that were not told: `count` is that of `Seldom.due`."""
    return f" ({count} since the last such line)" if count > 1 else ""


class Seldom:
    """Decides when to tell something, by its name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def due(self, what: str) -> int:
        """How often it has happened since it was told, this time included, if it is to be told now; otherwise 0."""
        now = self._clock()
        at, untold = self._told.pop(what, (now - SILENCE, 0))
        due = now - at >= SILENCE
        self._told[what] = (now, 0) if due else (at, untold + 1)
        if len(self._told) > _KNOWN:
            del self._told[next(iter(self._told))]
        return untold + 1 if due else 0
