"""What all replicas are asked for, where one that does not answer keeps nobody from hearing the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import suppress
from typing import Any, Protocol


class Asked(Protocol):
    """One replica's answer to come: `ray.serve._private.replica_result.ReplicaResult`."""

    def get_async(self) -> Awaitable[Any]:
        """The answer. Raises what was raised at the replica, and Ray's errors."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


async def answers(asking: Awaitable[Sequence[Asked]], patience: float) -> AsyncGenerator[Any, None]:
    """What those say that answer within `patience` seconds, as it comes; what the others were asked is taken back.

    Args:
        asking: sends the question. Its errors are raised.
    """
    deadline = asyncio.get_running_loop().time() + patience
    asked = await asyncio.wait_for(asking, patience)
    waiting = {asyncio.ensure_future(each.get_async()): each for each in asked}
    try:
        while waiting:
            rest = max(0.0, deadline - asyncio.get_running_loop().time())
            done, _ = await asyncio.wait(waiting, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return
            for task in done:
                del waiting[task]
            for task in done:
                if not task.cancelled() and task.exception() is None:
                    yield task.result()
    finally:
        for task, each in waiting.items():
            task.cancel()
            each.cancel()
        for task in waiting:
            with suppress(asyncio.CancelledError, Exception):
                await task
