"""How far a sweep is: a bar and the table growing below it on a terminal, a log line a trial elsewhere."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from tgi_server.sweep import table
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Sweep, Trial

_WIDTH = 30
"""Characters of the bar."""
_INTERVAL = 0.25
"""Seconds between two pictures, at least."""
_MINUTE = 60

logger = logging.getLogger(__name__)


class Screen(Protocol):
    """Told what happens."""

    def begin(self, point: Point, repeat: int, left: float | None) -> None:
        """A trial has begun; seconds left for it and all that follow, where that can be told."""

    def watch(self, part: float, requests: int) -> None:
        """Of the trial this part (0 to 1) is done, any thread may say."""

    def say(self, words: str) -> None:
        """What is done that is no trial."""

    def end(self, point: Point, trial: Trial, sweep: Sweep, left: float | None) -> None:
        """The trial has ended; `sweep` has it, too. Seconds left for those that follow, where that can be told."""

    def close(self) -> None:
        """Leave the terminal at the start of a line."""


class Lines:
    """A log line a trial. `tell` writes it."""

    def __init__(self, done: int, total: int, tell: Callable[[str], None] = logger.info) -> None:
        self._done = done
        self._total = total
        self._tell = tell

    def begin(self, point: Point, repeat: int, left: float | None) -> None:
        """See `Screen`."""

    def watch(self, part: float, requests: int) -> None:
        """See `Screen`."""

    def say(self, words: str) -> None:
        """See `Screen`."""
        self._tell(words)

    def end(self, point: Point, trial: Trial, sweep: Sweep, left: float | None) -> None:
        """See `Screen`."""
        self._done += trial.summary is not None
        result = table.short(trial.summary) if trial.summary else f"failed: {trial.error}"
        rest = f"; {duration(left)} left" if left else ""
        self._tell(f"{self._done} of {self._total} measured: {point.name}, repeat {trial.repeat}: {result}{rest}")

    def close(self) -> None:
        """See `Screen`."""


class Picture:
    """A bar with the time that is left, and the table, drawn again in place.

    Args:
        sweep: what is known at the beginning.
        total: trials, those included that were made by an earlier start.
        size: columns and lines of the terminal.
    """

    def __init__(
        self,
        sweep: Sweep,
        done: int,
        total: int,
        stream: TextIO = sys.stderr,
        size: Callable[[], tuple[int, int]] = shutil.get_terminal_size,
    ) -> None:
        self._sweep = sweep
        self._done = done
        self._total = total
        self._stream = stream
        self._size = size
        self._current = 0
        self._doing = "starting"
        self._part = 0.0
        self._requests = 0
        self._due: float | None = None
        self._drawn: list[str] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="screen", daemon=True)
        self._thread.start()

    def begin(self, point: Point, repeat: int, left: float | None) -> None:
        """See `Screen`."""
        with self._lock:
            self._current, self._doing = point.number, f"{point.name}, repeat {repeat}"
            self._part, self._requests = 0.0, 0
            self._due = None if left is None else time.monotonic() + left

    def watch(self, part: float, requests: int) -> None:
        """See `Screen`."""
        self._part, self._requests = part, requests

    def say(self, words: str) -> None:
        """See `Screen`."""
        with self._lock:
            self._doing, self._part, self._requests = words, 0.0, 0

    def end(self, point: Point, trial: Trial, sweep: Sweep, left: float | None) -> None:
        """See `Screen`."""
        with self._lock:
            self._sweep, self._part, self._requests = sweep, 0.0, 0
            self._done += trial.summary is not None

    def close(self) -> None:
        """See `Screen`; what was drawn is taken away, as the table is printed at the end."""
        self._closed.set()
        self._thread.join()
        if self._drawn:
            self._write(f"\r\x1b[{len(self._drawn)}A\x1b[J")

    def _refresh(self) -> None:
        while not self._closed.wait(_INTERVAL):
            columns, lines = self._size()
            with self._lock:
                picture = self._lines(columns - 1, lines - 1)
            self._draw(picture)

    def _lines(self, columns: int, lines: int) -> list[str]:
        part = (self._done + self._part) / self._total
        bar = f"[{'#' * round(_WIDTH * part):<{_WIDTH}}]"
        head = f"{self._done} of {self._total} {bar} {100 * part:3.0f} %{self._left()}"
        asked = f": {100 * self._part:.0f} %, {self._requests} requests" if self._requests else ""
        first, *others = table.rows(self._sweep)
        fitting = _around(others, self._current - 1, lines - 3)
        return [line[:columns] for line in (head, self._doing + asked, first, *fitting)][: max(1, lines)]

    def _left(self) -> str:
        return "" if self._due is None else f", {duration(max(0.0, self._due - time.monotonic()))} left"

    def _draw(self, picture: Sequence[str]) -> None:
        """In one write, over what was drawn before; nothing where it is the same."""
        if picture == self._drawn:
            return
        up = f"\r\x1b[{len(self._drawn)}A" if self._drawn else ""
        self._write(up + "".join(f"{line}\x1b[K\n" for line in picture) + "\x1b[J")
        self._drawn = list(picture)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # a terminal that has gone
            self._closed.set()


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3 h 05 min."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    minutes = -(-whole // _MINUTE)
    return f"{minutes} min" if minutes < _MINUTE else f"{minutes // _MINUTE} h {minutes % _MINUTE:02} min"


def _around(rows: Sequence[str], index: int, count: int) -> Sequence[str]:
    """As many rows as fit, with the one of this index among them."""
    first = min(max(0, index - count // 2), max(0, len(rows) - count))
    return rows[first : first + max(0, count)]
