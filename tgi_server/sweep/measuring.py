"""One measurement of one point."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tgi_server.bench.completion import Record
from tgi_server.bench.http import BenchError, Target
from tgi_server.bench.load import find_model, measure
from tgi_server.bench.main import target_of
from tgi_server.bench.summary import Summary, summarise
from tgi_server.jobs.base import Stop
from tgi_server.sweep.points import Point

_POLL = 0.1
"""Seconds between two looks at whether to stop."""


def measured(point: Point, run: int, stop: Stop, watch: Callable[[float, int], None]) -> Summary:
    """What a point's server does under its load; it has to be running.

    Args:
        run: decides which prompts are made up.
        watch: told what part (0 to 1) is done, and of how many requests.

    Raises:
        BenchError: nothing could be measured, or `stop` asked for the end.
    """

    def watching(part: float, records: list[Record]) -> None:
        _check(stop)
        watch(part, len(records))

    async def all_of_it() -> Summary:
        target, named = target_of(point.task.job, point.task.run.config)
        model = named or await _model(target, stop)
        clients = point.work.clients[0]
        run_of_it = await measure(target, model, point.work, clients, run, watching)
        return summarise(clients, run_of_it.records, point.work.duration)

    return asyncio.run(all_of_it())


async def _model(target: Target, stop: Stop) -> str | None:
    """The model's name, unless a stop is asked for meanwhile."""
    task = asyncio.ensure_future(find_model(target))
    try:
        while not (await asyncio.wait([task], timeout=_POLL))[0]:
            _check(stop)
        return await task
    finally:
        task.cancel()


def _check(stop: Stop) -> None:
    if stop.requested:
        raise BenchError("stopped before everything was measured")
