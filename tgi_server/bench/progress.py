"""How far a measurement is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

from tgi_server.bench.completion import Record

_WIDTH = 30
"""Characters of the bar."""
_INTERVAL = 5.0
"""Seconds between log lines."""

logger = logging.getLogger(__name__)


class Progress:
    """Shows one measurement. Give `show` all records so far as often as there is news."""

    def __init__(self, title: str, bar: bool, stream: TextIO = sys.stderr) -> None:
        self._title = title
        self._stream = stream
        self._bar = bar and stream.isatty()
        self._last = time.monotonic()

    def show(self, part: float, records: list[Record]) -> None:
        """This part, from 0 to 1, is done."""
        if self._bar:
            line = f"\r{self._title} [{'#' * round(_WIDTH * part):<{_WIDTH}}] {100 * part:3.0f} %"
            self._stream.write(f"{line} {len(records)} requests")
            self._stream.flush()
        elif time.monotonic() - self._last >= _INTERVAL:
            self._last = time.monotonic()
            logger.info("%s: %d %%, %d requests", self._title, round(100 * part), len(records))

    def finish(self) -> None:
        """Clear the bar's line."""
        if self._bar:
            self._stream.write("\r\033[K")
            self._stream.flush()
