"""Points measured on servers that are started for them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tgi_server.bench import main as bench
from tgi_server.bench.completion import Record
from tgi_server.bench.http import BenchError, Target
from tgi_server.bench.load import find_model, measure
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.progress import Progress
from tgi_server.bench.summary import Summary, summarise
from tgi_server.bench.workload import Workload
from tgi_server.errors import ConfigError, TgiError
from tgi_server.jobs.base import Context
from tgi_server.sweep.driver import logging_to
from tgi_server.sweep.objective import Limits
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Trial
from tgi_server.tune.guard import EndedError, Guard, verdict


@dataclass(frozen=True)
class Bench:
    """Measures points (`book.Attempt`).

    Attributes:
        limits: what is to be kept.
        logs: directory for what the servers of each point say.
        bar: whether progress is shown as a bar, on a terminal.
    """

    context: Context
    limits: Limits
    logs: Path
    bar: bool = True

    def __call__(self, point: Point, work: Workload, repeat: int, run: int, guard: Guard) -> Trial:
        """Start the server of a point unless it runs, and measure it; failures are in the trial."""
        began, start = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        trial = Trial(point.number, repeat, began, 0.0)
        log = self._log(point)
        try:
            with logging_to(log, point.task):
                summary, stopped = self.context.stage.beside(
                    point.task.run, lambda: asyncio.run(self._measured(point, work, run, guard)), log
                )
            trial = replace(trial, summary=summary, stopped=stopped)
        except (TgiError, OSError) as error:
            if self.context.stop.requested:
                raise
            trial = replace(trial, error=str(error), last_words=tuple(getattr(error, "last_words", ())))
        return replace(trial, seconds=time.monotonic() - start)

    def _log(self, point: Point) -> Path:
        path = self.logs / f"{point.number:02}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
        except OSError as error:
            raise ConfigError(f"record={self.logs.parent}: cannot be written ({error.strerror})") from None
        return path

    async def _measured(self, point: Point, work: Workload, run: int, guard: Guard) -> tuple[Summary, str | None]:
        (clients,) = work.clients
        target = _target(point)
        progress = Progress(" ".join(f"{name}={value}" for name, value in point.settings.items()), bar=self.bar)

        def watch(part: float, records: list[Record]) -> None:
            if self.context.stop.requested:
                raise BenchError("stopped before everything was measured")
            progress.show(part, records)
            guard(part, records)

        try:
            made = await measure(target, await find_model(target), work, clients, run, watch)
            stopped = verdict(made.records, self.limits, not work.closed)
            return summarise(clients, made.records, work.duration), stopped
        except EndedError as error:
            return summarise(clients, guard.records, work.duration), str(error)
        finally:
            progress.finish()


def _target(point: Point) -> Target:
    return bench.target_of(BenchOptions(), point.task.run.config)[0]
