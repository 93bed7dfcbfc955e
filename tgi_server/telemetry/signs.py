"""Signs of life that a process gives to the launcher on its standard error, and its stacks when it is asked for them.

The launcher cannot see from outside whether a process works or waits for ever, so each says once a second that it
still does what it is there for. Stdlib only.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tgi_server.types import HANGS, LEAVES, SIGN

INTERVAL = 1.0
"""Seconds between two signs."""
SHOW_STACKS = signal.SIGUSR1
"""Has a process write the stacks of its threads to standard error, also when one of them hangs in C code."""


@contextmanager
def of_this_loop() -> Iterator[None]:
    """Give signs meanwhile, as long as the event loop goes round that this is called in; at the end a last one."""
    faulthandler.register(SHOW_STACKS)
    task = asyncio.create_task(_give())
    try:
        yield
    finally:
        task.cancel()
        _write(LEAVES)


async def _give() -> None:
    while True:
        _write(SIGN)
        await asyncio.sleep(INTERVAL)


@contextmanager
def of_a_thread(problem: Callable[[], str | None]) -> Iterator[None]:
    """Give signs from a thread, meanwhile; at the end a last one.

    Args:
        problem: says why the rest of the process is believed to hang; None when it is not.
    """
    faulthandler.register(SHOW_STACKS)
    over = threading.Event()

    def give() -> None:
        while not over.wait(INTERVAL):
            found = problem()
            _write(SIGN if found is None else f"{HANGS}{found}")

    _write(SIGN)
    thread = threading.Thread(target=give, name="signs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _write(LEAVES)


def _write(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody listens any more
        sys.stderr.write(f"{line}\n")  # in one piece, as other threads write, too
        sys.stderr.flush()
