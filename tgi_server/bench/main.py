"""One server measured: found or started, loaded with each number of clients in turn, and told about."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Mapping
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import tgi_server
from tgi_server import api_keys
from tgi_server.bench import report
from tgi_server.bench.completion import Record
from tgi_server.bench.http import BenchError, Target
from tgi_server.bench.load import Run, find_model, measure
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.progress import Progress
from tgi_server.bench.summary import summarise
from tgi_server.bench.workload import Workload
from tgi_server.config import describe
from tgi_server.config.schema import ModelOptions, ServerConfig, TelemetryOptions
from tgi_server.errors import UsageError
from tgi_server.jobs.base import Context, Stop, Task
from tgi_server.telemetry import logging as log

_POLL = 0.1
"""Seconds between two looks at whether to stop."""

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


def check(options: BenchOptions, config: ServerConfig, origins: Mapping[str, str]) -> None:
    """See `tgi_server.jobs.bench.Bench.check`."""
    Workload.of(options)
    api_keys.read(config)
    if options.output is not None:
        report.check_output("output", Path(options.output))
    if options.target is None:
        own_address(config)
    else:
        Target.parse(options.target)
        _refuse_unused(config, origins)


def run(task: Task, context: Context) -> None:
    """Measure and print the table; see `tgi_server.jobs.bench.Bench.perform`."""
    options: BenchOptions = task.job
    config = task.run.config
    check(options, config, task.run.origins)
    work = Workload.of(options)
    output = None if options.output is None else Path(options.output)
    with contextlib.redirect_stdout(sys.stderr):
        target, named = target_of(options, config)
        bench = _Bench(work, options.traffic, target, named, output, not config.json_output, context.stop)
        if options.target is None:
            runs = context.stage.beside(task.run, lambda: asyncio.run(bench.all()))
        else:
            log.setup(config, "bench")
            runs = asyncio.run(bench.all())
    bench.tell(runs)


def target_of(options: BenchOptions, config: ServerConfig) -> tuple[Target, str | None]:
    """Where to send requests, and the model's name there if it was given."""
    key = next(iter(api_keys.read(config)), None)
    if options.target is None:
        return replace(own_address(config), key=key), None
    named = config.model_id if config.model_id != ModelOptions.model_id else None
    return replace(Target.parse(options.target), key=key), named


class _Bench:
    """All measurements of one server."""

    def __init__(
        self,
        work: Workload,
        traffic: str | None,
        target: Target,
        model: str | None,
        output: Path | None,
        bar: bool,
        stop: Stop,
    ) -> None:
        self._work = work
        self._traffic = traffic
        self._target = target
        self._model = model
        self._output = output
        self._bar = bar
        self.stop = stop

    async def all(self) -> list[Run]:
        """Each number of clients in turn."""
        self._model = self._model or await self._unless_stopped(find_model(self._target))
        logger.info("measuring %s, model %s", self._target, self._model or "(not named)")
        return [await self._one(number, clients) for number, clients in enumerate(self._work.clients)]

    def tell(self, runs: list[Run]) -> None:
        """Print the table and write the file."""
        summaries = [summarise(run.clients, run.records, self._work.duration) for run in runs]
        print(report.table(summaries))
        for summary in summaries:
            if summary.first_error:
                print(f"{summary.clients} clients: {summary.failed} failed; the first: {summary.first_error}")
        if self._output is not None:
            facts = {
                "version": tgi_server.__version__,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "target": str(self._target),
                "model": self._model,
                "workload": asdict(replace(self._work, traffic=None)) | {"traffic": self._traffic},
            }
            report.write(self._output, facts, runs, summaries)

    async def _one(self, number: int, clients: int) -> Run:
        progress = Progress(f"{clients} clients", bar=self._bar)

        def watch(part: float, records: list[Record]) -> None:
            self._check_stop()
            progress.show(part, records)

        try:
            return await measure(self._target, self._model, self._work, clients, number, watch)
        finally:
            progress.finish()

    async def _unless_stopped(self, work: Awaitable[_T]) -> _T:
        """What `work` returns; it is left when a stop is asked for."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait([task], timeout=_POLL))[0]:
                self._check_stop()
            return await task
        finally:
            task.cancel()

    def _check_stop(self) -> None:
        if self.stop.requested:
            raise BenchError("stopped before everything was measured")


def own_address(config: ServerConfig) -> Target:
    """Where the configured server will listen, seen from this machine."""
    if config.port == 0:
        raise UsageError("port=0: to be measured the server needs a port that is known before")
    return Target({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.hostname, config.hostname), config.port)


def _refuse_unused(config: ServerConfig, origins: Mapping[str, str]) -> None:
    used = {field.name for field in fields(TelemetryOptions)} | {"model_id", "job", "api_key", "api_key_file"}
    used.discard("record_traffic")
    names = [field.name for field in fields(ServerConfig) if field.name not in used]
    if problems := list(describe.given(config, origins, names, "has no effect on a server that runs already (target)")):
        raise UsageError("; ".join(problems))
