"""Progress of slow preparations: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

_WIDTH = 30
"""Characters of the bar."""
_INTERVAL = 5.0
"""Seconds between log lines about one stage."""

_UNTOLD = 10.0
"""Seconds of a stage before anything is said about the rest of it."""
_LEAST_DONE = 0.01
"""Part of a stage that has to be done before that."""
_MINUTE = 60
_NUMBER = re.compile(r"\d+")

logger = logging.getLogger(__name__)


class Progress:
    """Shows one stage after the other. Call `report` as often as there is news, `finish` at the end.

    Stages whose names differ in numbers only (layer 3 of 30, layer 4 of 30) are one, as long as its part that is done
    grows. When a stage takes longer, what it shows tells how long it is going to take.
    """

    def __init__(self, bar: bool, stream: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._bar = bar and stream.isatty()
        self._clock = clock
        self._stage = ""
        self._logged = 0.0
        self._fraction = 0.0
        self._last = 0.0
        self._began = (0.0, 0.0)
        self._drawn = ""

    def report(self, stage: str, fraction: float) -> None:
        """Show that this part (0 to 1) of the stage is done."""
        if not self._goes_on(stage, fraction):
            if self._bar:
                self.finish()
            self._began, self._drawn = (self._clock(), fraction), ""
        if self._bar:
            self._draw(stage, fraction)
        elif stage != self._stage or self._due(fraction):
            self._logged, self._fraction = self._clock(), fraction
            logger.info("%s: %d %%%s", stage, round(100 * fraction), self._left(fraction))
        self._stage, self._last = stage, fraction

    def _goes_on(self, stage: str, fraction: float) -> bool:
        """Whether it is the stage that was shown last."""
        words, last = (_NUMBER.sub("", text) for text in (stage, self._stage))
        return words == last and (stage == self._stage or fraction >= self._last)

    def _left(self, fraction: float) -> str:
        """`, 3 min left`, once that can be told."""
        start, before = self._began
        spent, done = self._clock() - start, fraction - before
        if spent < _UNTOLD or done < _LEAST_DONE or fraction >= 1:
            return ""
        seconds = round(spent / done * (1 - fraction))
        return f", {duration(seconds)} left"

    def _due(self, fraction: float) -> bool:
        """Whether there is something to log about the same stage: now and then, and its end."""
        return fraction > self._fraction and (fraction >= 1 or self._clock() - self._logged >= _INTERVAL)

    def finish(self) -> None:
        """Leave the terminal at the start of a line."""
        if self._bar and self._stage:
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self, stage: str, fraction: float) -> None:
        filled = "#" * round(_WIDTH * fraction)
        line = f"{stage} [{filled:<{_WIDTH}}] {100 * fraction:3.0f} %{self._left(fraction)}"
        if line != self._drawn:
            self._stream.write(f"\r{line:<{len(self._drawn)}}")
            self._stream.flush()
        self._drawn = line


def duration(seconds: int) -> str:
    """Seconds in words: 40 s, 12 min, 3 h 05 min."""
    if seconds < _MINUTE:
        return f"{seconds} s"
    minutes = -(-seconds // _MINUTE)
    return f"{minutes} min" if minutes < _MINUTE else f"{minutes // _MINUTE} h {minutes % _MINUTE:02} min"
