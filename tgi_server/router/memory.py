"""Gives back to the system what bursts of long prompts leave in the router, which libraries keep for the next one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tgi_server import host

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""Between two looks at whether nobody asks."""

WORTH_BYTES = 32 * 2**20
"""Growth since the last time from which on it is worth the milliseconds that it takes."""


@asynccontextmanager
async def returned_when_idle(idle: Callable[[], bool], seconds: float = LOOK_SECONDS) -> AsyncIterator[None]:
    """Look every so many `seconds`; nothing is done while the server is not `idle`."""
    task = asyncio.create_task(_look(idle, seconds))
    try:
        yield
    finally:
        task.cancel()


async def _look(idle: Callable[[], bool], seconds: float) -> None:
    least = host.resident_memory()
    while True:
        await asyncio.sleep(seconds)
        before = host.resident_memory()
        least = min(least, before)
        if idle() and before - least > WORTH_BYTES:
            await asyncio.to_thread(host.return_memory)
            least = host.resident_memory()
            log.debug("idle: %d MiB given back to the system", (before - least) // 2**20)
