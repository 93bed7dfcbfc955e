"""Progress of slow preparations: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

_WIDTH = 30
"""Characters of the bar."""
_INTERVAL = 5.0
"""Seconds between log lines about one stage."""

logger = logging.getLogger(__name__)


class Progress:
    """Shows one stage after the other. Call `report` as often as there is news, `finish` at the end."""

    def __init__(self, bar: bool, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._bar = bar and stream.isatty()
        self._stage = ""
        self._logged = 0.0
        self._fraction = 0.0
        self._drawn = ""

    def report(self, stage: str, fraction: float) -> None:
        """Show that this part (0 to 1) of the stage is done."""
        if self._bar:
            self._draw(stage, fraction)
        elif stage != self._stage or self._due(fraction):
            self._logged, self._fraction = time.monotonic(), fraction
            logger.info("%s: %d %%", stage, round(100 * fraction))
        self._stage = stage

    def _due(self, fraction: float) -> bool:
        """Whether there is something to log about the same stage: now and then, and its end."""
        return fraction > self._fraction and (fraction >= 1 or time.monotonic() - self._logged >= _INTERVAL)

    def finish(self) -> None:
        """Leave the terminal at the start of a line."""
        if self._bar and self._stage:
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self, stage: str, fraction: float) -> None:
        if stage != self._stage:
            self.finish()
        filled = "#" * round(_WIDTH * fraction)
        line = f"{stage} [{filled:<{_WIDTH}}] {100 * fraction:3.0f} %"
        if line != self._drawn:
            self._stream.write(f"\r{line}")
            self._stream.flush()
        self._drawn = line
