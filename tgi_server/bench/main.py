"""`job=bench`: measure the configured server, or any other with the OpenAI interface."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import tgi_server
from tgi_server import api_keys
from tgi_server.bench import report
from tgi_server.bench.completion import Record
from tgi_server.bench.http import BenchError, Pool, Target
from tgi_server.bench.load import Run, find_model, measure
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.progress import Progress
from tgi_server.bench.summary import summarise
from tgi_server.bench.workload import Workload
from tgi_server.config import describe
from tgi_server.config.schema import ModelOptions, ServerConfig, TelemetryOptions
from tgi_server.errors import TgiError, UsageError
from tgi_server.telemetry import logging as log

_POLL = 0.1
"""Seconds between two questions whether the server is ready, or whether to stop."""

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Stop(Protocol):
    """Whether to stop, asked for by a signal or by `request`."""

    @property
    def requested(self) -> bool: ...  # noqa: D102
    def request(self) -> None: ...  # noqa: D102


@dataclass
class Bench(BenchOptions):
    """What the load generator asks of a server.

    As a job it is run as `tgi_server.launcher.main.Serve` is.
    """

    endless: ClassVar[bool] = False

    @property
    def starts_server(self) -> bool:
        """Whether the configured server is measured, which is started for it."""
        return self.target is None

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Raise UsageError where an option cannot be read or has no effect, ConfigError for a file of keys."""
        Workload.of(self)
        api_keys.read(config)
        if self.output is not None:
            report.check_output("output", Path(self.output))
        if self.target is None:
            _own_address(config)
        else:
            Target.parse(self.target)
            _refuse_unused(config, origins)

    def run(self, config: ServerConfig, origins: Mapping[str, str], serve: Callable[[], None], stop: Stop) -> None:
        """Measure and print the table; logs go to standard error.

        Raises:
            UsageError: an option cannot be read or has no effect.
            BenchError: nothing could be measured.
        """
        self.check(config, origins)
        work = Workload.of(self)
        output = None if self.output is None else Path(self.output)
        key = next(iter(api_keys.read(config)), None)
        with contextlib.redirect_stdout(sys.stderr):
            if self.target is None:
                target = replace(_own_address(config), key=key)
                bench = _Bench(work, target, None, output, not config.json_output, stop)
                runs = _beside(bench, serve)
            else:
                log.setup(config, "bench")
                named = config.model_id if config.model_id != ModelOptions.model_id else None
                target = replace(Target.parse(self.target), key=key)
                bench = _Bench(work, target, named, output, not config.json_output, stop)
                runs = asyncio.run(bench.all())
        bench.tell(runs)


class _Bench:
    """All measurements of one server."""

    def __init__(
        self, work: Workload, target: Target, model: str | None, output: Path | None, bar: bool, stop: Stop
    ) -> None:
        self._work = work
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

    async def ready(self) -> None:
        """Wait until the configured server answers."""
        pool, request, status = Pool(self._target), self._target.request("GET", "/health"), 0
        while status != 200:
            self._check_stop()
            await asyncio.sleep(_POLL)
            with contextlib.suppress(OSError):
                status = await self._unless_stopped(pool.send(request, lambda _: None))
        pool.close()

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
                "workload": asdict(self._work),
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


def _beside(bench: _Bench, serve: Callable[[], None]) -> list[Run]:
    """Measure in a thread while the server runs in this one, where signals arrive."""
    runs: list[Run] = []
    problems: list[Exception] = []

    async def work() -> None:
        await bench.ready()
        runs.extend(await bench.all())

    def guarded() -> None:
        try:
            asyncio.run(work())
        except Exception as error:  # raised again in the other thread
            problems.append(error)
        finally:
            bench.stop.request()

    thread = threading.Thread(target=guarded, name="bench")
    thread.start()
    try:
        serve()
    except TgiError:
        problems.clear()  # the server's own words say why
        raise
    finally:
        bench.stop.request()
        thread.join()
    if problems:
        raise problems[0]
    return runs


def _own_address(config: ServerConfig) -> Target:
    """Where the configured server will listen, seen from this machine."""
    if config.port == 0:
        raise UsageError("port=0: to be measured the server needs a port that is known before")
    return Target({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.hostname, config.hostname), config.port)


def _refuse_unused(config: ServerConfig, origins: Mapping[str, str]) -> None:
    used = {field.name for field in fields(TelemetryOptions)} | {"model_id", "job", "api_key", "api_key_file"}
    names = [field.name for field in fields(ServerConfig) if field.name not in used]
    if problems := list(describe.given(config, origins, names, "has no effect on a server that runs already (target)")):
        raise UsageError("; ".join(problems))
