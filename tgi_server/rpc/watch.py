"""Whether the loop of a shard works or hangs, as another of its threads sees it. Stdlib only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK = 0.5
"""Seconds after which a loop without plans shows that it is there."""
IDLE_LIMIT = 3.0
"""Seconds without that after which it is believed to hang."""
STEP_LIMIT = 120.0
"""Seconds that any step of a GPU may take: those with kernels that are compiled first take the longest."""
STEP_FACTOR = 20.0
"""How many times as long as the longest step before a step of a GPU may take, if that is more."""
STILL_LIMIT = 60.0
"""Seconds within a step of a CPU without work of the processor after which it is believed to hang."""
PAUSE = 2.0
"""Seconds between two questions after which it was the whole process, or the machine, that stood still."""
STILL = 0.05
"""The part of a core below which a process does nothing."""


class StepWatch:
    """Follows a loop; `problem` is asked by another thread, about once a second.

    How long a step may take nobody knows: on a CPU a long prompt takes minutes. But it computes all the time, so there
    a step hangs when the process has stopped to compute. While it waits for a GPU a process computes all the time, too;
    but these steps are short. For the time that the whole process stood still itself, nothing is believed to hang.

    Args:
        device_type: `cpu`, or what else the shard computes on.
        clock: seconds.
        used: seconds of processor time that the process has used.
    """

    def __init__(
        self, device_type: str, clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:  # fmt: skip
        self._on_cpu = device_type == "cpu"
        self._clock = clock
        self._used = used
        self._looked = clock()
        self._began: float | None = None  # the step under way
        self._longest = 0.0
        self._measured = clock(), used()
        self._computed = clock()  # when the process was last seen to compute
        self._asked = self._resumed = clock()

    def look(self) -> None:
        """The loop looks for work."""
        self._looked = self._clock()

    @contextmanager
    def step(self) -> Iterator[None]:
        """The loop works on something."""
        began = self._began = self._clock()
        try:
            yield
        finally:
            self._longest = max(self._longest, self._clock() - began)
            self._looked, self._began = self._clock(), None

    def problem(self) -> str | None:
        """Why the loop is believed to hang; None when it is not."""
        began, now = self._began, self._clock()  # `_began` is of the other thread
        if now - self._asked > PAUSE:
            self._resumed = now
        self._asked = now
        still = min(self._still(now), now - self._resumed)
        if began is None:
            quiet = now - max(self._looked, self._resumed)
            return f"its loop has not looked for work for {quiet:.0f} s" if quiet > IDLE_LIMIT else None
        if self._on_cpu:
            still = min(still, now - began)
            return f"nothing was computed for {still:.0f} s within a step" if still > STILL_LIMIT else None
        lasts, limit = now - max(began, self._resumed), max(STEP_LIMIT, STEP_FACTOR * self._longest)
        return f"a step has not ended for {lasts:.0f} s" if lasts > limit else None

    def _still(self, now: float) -> float:
        """Seconds since the process was last seen to compute."""
        (before, used_before), used = self._measured, self._used()
        if now - before >= LOOK:
            self._measured = now, used
            if used - used_before > STILL * (now - before):
                self._computed = now
        return now - self._computed
