"""Which child hangs, by the signs of life that it gives (`telemetry.signs`). Who never gave one is not judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from tgi_server.types import HANGS, LEAVES, SIGN

SHARD_SILENCE = 3.5
"""Seconds without a sign after which a shard hangs: nothing keeps its thread for signs from running that long."""
ROUTER_SILENCE = 10.0
"""The same of the router, whose loop gives the signs itself, between all else that it does."""
BUSY_SILENCE = 30.0
"""The same of a process that works, or waits for a core or a disk: it may only have had no time for signs."""
LEAVING_SILENCE = 10.0
"""Seconds that a process may take to end, once it has said that it will: libraries have things to clear away."""
PAUSE = 1.0
"""Seconds between two looks after which it was this process, or the machine, that stood still."""


class Signs:
    """Those of one child.

    Attributes:
        last: when the last one came; None before the first.
        complaint: why its work hangs, as the child itself says.
        leaving: whether it was the very last one, as the child is about to end.
    """

    def __init__(self) -> None:
        self.last: float | None = None
        self.complaint: str | None = None
        self.leaving = False

    def take(self, line: str) -> bool:
        """Whether the line is one."""
        if line not in (SIGN, LEAVES) and not line.startswith(HANGS):
            return False
        self.last = time.monotonic()
        self.complaint = line.removeprefix(HANGS) if line.startswith(HANGS) else None
        self.leaving = line == LEAVES
        return True


class Signing(Protocol):
    """A child that gives signs."""

    @property
    def name(self) -> str:
        """How logs call it."""
        ...

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    @property
    def signs(self) -> Signs:
        """Those that it gave."""
        ...


class Watch:
    """Looks at children again and again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()

    def problem(self, child: Signing) -> str | None:
        """Why a child is believed to hang; None when it is not. See `look`."""
        signs, now = child.signs, self._looked
        if signs.last is None:
            return None
        if signs.complaint is not None:
            return signs.complaint
        silence = now - signs.last
        usual = ROUTER_SILENCE if child.name == "router" else SHARD_SILENCE
        if silence <= (LEAVING_SILENCE if signs.leaving else usual):
            return None
        state = _state(child.pid)
        if state == "traced" or (state == "busy" and silence <= BUSY_SILENCE):
            return None
        stopped = "it was stopped (SIGSTOP), and " if state == "stopped" else ""
        if signs.leaving:
            return f"{stopped}it was about to end, and has not for {silence:.1f} s"
        return f"{stopped}there was no sign of life for {silence:.1f} s"

    def look(self, children: Iterable[Signing]) -> None:
        """To be called before `problem`, when all signs that had come were taken.

        When this process stood still itself, all get time to give signs again.
        """
        now = self._clock()
        if now - self._looked > PAUSE:
            for child in children:
                child.signs.last = None if child.signs.last is None else now
        self._looked = now


def _state(pid: int) -> str:
    """As far as the system tells.

    Returns:
        `traced`: somebody looks at it with a debugger. `stopped`: by a signal. `busy`: a thread runs, or wants a core
        or a disk. `waiting`: all of them sleep.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return "waiting"
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    if fields.get("TracerPid", "0") != "0":
        return "traced"
    states = {task.rpartition(")")[2].split()[0] for task in tasks}
    if "T" in states:
        return "stopped"
    return "busy" if states & {"R", "D"} else "waiting"
