"""Where the servers of jobs run, one at a time."""

from __future__ import annotations

import contextlib
import http.client
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tgi_server.config import describe, load
from tgi_server.config.arguments import Arguments, Composition
from tgi_server.config.schema import NetworkOptions
from tgi_server.errors import TgiError
from tgi_server.launcher import check, hardware, prepare, report, sockets
from tgi_server.launcher.prepare import Fetch, accelerators
from tgi_server.launcher.supervise import Programs, Server, StoppedError, StopSignals
from tgi_server.models.check import described
from tgi_server.quantize.base import QuantizeMethod
from tgi_server.telemetry import logging as log

_POLL = 0.1
"""Seconds between two questions whether the server is ready."""

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Stage:
    """See `tgi_server.jobs.base.Stage`.

    Args:
        arguments: whose warnings are told when a server starts, and whether it is told about the machine.
        programs: what shards and router are.
        fetch: brings a model to this machine.
        stop: the signals that arrive.
    """

    def __init__(self, arguments: Arguments, programs: Programs, fetch: Fetch, stop: StopSignals) -> None:
        self._arguments = arguments
        self._programs = programs
        self._fetch = fetch
        self._stop = stop

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what runs."""

    def serve(self, run: Composition) -> None:
        """See `tgi_server.jobs.base.Stage`."""
        self._run(run, self._stop)

    def beside(self, run: Composition, work: Callable[[], _T], log: Path | None = None) -> _T:
        """See `tgi_server.jobs.base.Stage`."""
        done = _Until(self._stop)
        results: list[_T] = []
        problems: list[Exception] = []

        def guarded() -> None:
            try:
                _await_ready(run.config, done)
                results.append(work())
            except StoppedError:
                pass  # the server's end says why
            except Exception as error:  # raised again in the other thread
                problems.append(error)
            finally:
                done.request()

        thread = threading.Thread(target=guarded, name="work")
        thread.start()
        try:
            self._run(run, done)
        except TgiError:
            problems.clear()  # the server's own words say why
            raise
        finally:
            done.request()
            thread.join()
        if problems:
            raise problems[0]
        if not results:
            raise StoppedError
        return results[0]

    def ask_shards(self, run: Composition, module: str, *arguments: str, report: Callable[[str, float], None]) -> str:
        """See `tgi_server.jobs.base.Stage`."""
        raise NotImplementedError

    def _run(self, run: Composition, stop: StopSignals) -> None:
        log.setup(run.config, "launcher")
        self._introduce(run)
        config, origins = run.config, run.origins
        gpus = accelerators()
        check.options(config, origins, gpus)
        num_shard = check.number_of_shards(config, gpus)
        dtype = config.dtype or hardware.preferred_dtype(gpu=gpus > 0)
        with ExitStack() as held:
            held.enter_context(sockets.claim_port(config))
            listener = held.enter_context(sockets.bind(config))
            held.enter_context(sockets.claim_paths(config))
            sockets.clear(config, sockets.shard_paths(config, num_shard))
            if num_shard > 1:
                sockets.check_master_port(config)
            logger.info("%d shard(s), %s, port %d", num_shard, dtype.name, listener.getsockname()[1])
            method: QuantizeMethod = load.instantiate(config.quantize)
            look = partial(described, config=config, num_shard=num_shard, dtype=dtype, quantize=method)
            model, description = prepare.prepare(config, dtype, self._fetch, look, stop)
            resolved = prepare.resolved(model, num_shard, dtype, gpu=gpus > 0)
            Server(self._programs, config, replace(resolved, description=description), listener, stop).run()

    def _introduce(self, run: Composition) -> None:
        for warning in [*self._arguments.warnings, *self._arguments.suspects]:
            logger.warning(warning)
        if self._arguments.report:
            level = max(logging.INFO, logger.getEffectiveLevel())  # whatever log_level is, it was asked for
            for line in report.lines(run):
                logger.log(level, line)
        changed = describe.changed(run.config, run.origins)
        logger.info("options that differ from their defaults: %s", ", ".join(changed) or "none")


class _Until(StopSignals):
    """Until a signal comes, or the work beside the server is done."""

    def __init__(self, outer: StopSignals) -> None:
        super().__init__()
        self._outer = outer

    @property
    def requested(self) -> bool:
        return super().requested or self._outer.requested

    @property
    def hurried(self) -> bool:
        return self._outer.hurried


def _await_ready(options: NetworkOptions, stop: StopSignals) -> None:
    """Wait until the configured server answers. Raises StoppedError."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.hostname, options.hostname)
    while True:
        stop.check()
        time.sleep(_POLL)
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _answers(host, options.port):
                return


def _answers(host: str, port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
