"""Where the servers of jobs run, one at a time: what is the same from one configuration to the next stays."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tgi_server.cache import lengths
from tgi_server.cache.kinds import without_effect
from tgi_server.config import describe, load, options
from tgi_server.config.arguments import Arguments, Composition
from tgi_server.config.schema import DType, NetworkOptions, Resolved, ServerConfig
from tgi_server.errors import ModelError, TgiError
from tgi_server.launcher import check, hardware, prepare, report, sockets
from tgi_server.launcher.heard import Answer, await_ready, lines_to
from tgi_server.launcher.nodes import agreement, role
from tgi_server.launcher.prepare import Fetch, accelerators
from tgi_server.launcher.supervise import ChildFailedError, Programs, Server, StoppedError, StopSignals
from tgi_server.models.check import described
from tgi_server.models.description import Description
from tgi_server.placement import local_ranks
from tgi_server.quantize.base import QuantizeMethod
from tgi_server.telemetry import logging as log_setup

_MOMENT = 3.0
"""Seconds that work has to end by itself after a signal."""

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass
class _Running:
    """A server with its shards, and a router or none.

    Attributes:
        held: what it occupies; closed to stop it.
        shards: the options that its shards were made of.
        settled: those that the shards have found numbers for.
        router: those of its router; None where there is none.
    """

    server: Server
    held: ExitStack
    resolved: Resolved
    shards: Mapping[str, Any]
    settled: Mapping[str, int]
    router: Mapping[str, Any] | None = None

    def of(self, config: ServerConfig) -> ServerConfig:
        """The configuration with numbers for the lengths that its shards have settled."""
        settled: dict[str, Any] = dict(self.settled)
        return lengths.longest(replace(config, **settled), None)


class Stage:
    """See `tgi_server.jobs.base.Stage`.

    Args:
        arguments: whose warnings are told when a server starts, and whether it is told about the machine.
        programs: what shards and router are.
        fetch: brings a model to this machine.
        stop: the signals that arrive.
        listener: bound already, in place of a socket at the configured address; who made it closes it.
    """

    def __init__(
        self,
        arguments: Arguments,
        programs: Programs,
        fetch: Fetch,
        stop: StopSignals,
        listener: socket.socket | None = None,
    ) -> None:
        self._arguments = arguments
        self._programs = programs
        self._fetch = fetch
        self._stop = stop
        self._given = listener
        self._running: _Running | None = None
        self._ports = ExitStack()
        self._port: tuple[str, int] | None = None
        self._log: Path | None = None
        self._out = sys.stdout

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        there = self._log is not None and self._log.is_file()
        # where what runs has told all before
        with contextlib.redirect_stdout(self._out), lines_to(self._log if there else None):
            self._end()

    def serve(self, run: Composition) -> None:
        """See `tgi_server.jobs.base.Stage`."""
        with self._kept(run, None, router=not run.config.node_rank) as server:
            server.watch(lambda: self._stop.requested)
            server.drain(run.config)
        self._end()

    def beside(self, run: Composition, work: Callable[[], _T], log: Path | None = None) -> _T:
        """See `tgi_server.jobs.base.Stage`."""

        with self._kept(run, log) as server:
            return self._watched(server, run.config, work)

    def ask_shards(self, run: Composition, module: str, *arguments: str, report: Callable[[str, float], None]) -> str:
        """See `tgi_server.jobs.base.Stage`."""
        lines = Answer(report)
        with self._kept(run, None, router=False) as server:
            assert self._running is not None
            command = [sys.executable, "-m", module, *arguments]
            server.start_instead(command, self._running.of(run.config), self._running.resolved, lines.take)
            try:
                server.watch(lambda: self._stop.requested or lines.result is not None, may_end=True)
            except ChildFailedError:
                raise
            except BaseException:  # of `report`
                self._without_router()
                raise
            if lines.result is not None:
                server.let_end()
            self._without_router()
            self._stop.check()
        assert lines.result is not None
        kind, content = lines.result
        if kind != "done":
            raise ModelError(content)
        return content

    def _watched(self, server: Server, options: NetworkOptions, work: Callable[[], _T]) -> _T:
        """What `work` returns, called in a thread when the server answers, while this one looks after that."""
        results: list[_T] = []
        problems: list[BaseException] = []
        gone = threading.Event()

        def guarded() -> None:
            try:
                await_ready(options, lambda: gone.is_set() or self._stop.requested)
                results.append(work())
            except BaseException as error:  # raised again in the other thread
                problems.append(error)

        thread = threading.Thread(target=guarded, name="work")
        thread.start()
        try:
            server.watch(lambda: not thread.is_alive() or self._stop.requested)
            _join(server, thread)
        finally:
            gone.set()
            if thread.is_alive():  # its connections would wait for ever at the socket that is kept
                self._end()
            with self._stop.pretended():
                thread.join()
        if problems and isinstance(problems[0], TgiError):  # it may know more of a stop than that it was one
            raise problems[0]
        self._stop.check()
        if problems:
            raise problems[0]
        return results[0]

    @contextmanager
    def _kept(self, run: Composition, log: Path | None, router: bool = True) -> Iterator[Server]:
        """The server of a configuration, which stays for the next one unless something happens to it."""
        self._log, self._out = log, sys.stdout
        with lines_to(log):
            log_setup.setup(run.config, "launcher")
            self._introduce(run)
            try:
                yield self._server(run, router, bar=log is None and not run.config.json_output)
            except (ChildFailedError, StoppedError):
                self._end()
                raise

    def _server(self, run: Composition, router: bool, bar: bool) -> Server:
        gpus = accelerators()
        check.options(run.config, run.origins, gpus)
        wanted = _concerned(run.config, "launcher", "router")
        self._keep(run.config, wanted if router else None)
        running = self._running = self._running or self._started(run, gpus, bar)
        if router and running.router is None:
            running.server.start_router(running.of(run.config), running.resolved, self._listener(run.config))
            running.router = wanted
        return running.server

    def _keep(self, config: ServerConfig, router: Mapping[str, Any] | None) -> None:
        """Stop what cannot stay for a configuration and the options of its router, None for none.

        Raises ConfigError or ModelError where the model that is served cannot be served so.
        """
        running = self._running
        if running is None:
            return
        if ended := running.server.ended():
            logger.warning("%s has ended meanwhile: all is started anew", ended)
            self._end()
        elif changed := self._decisive(config, running):
            logger.info("all is started anew: shards are made of other %s", ", ".join(sorted(changed)))
            self._end()
        elif running.router is not None and running.router == router:
            logger.info("shards and router stay")
        elif self._without_router():
            logger.info("the shards stay")

    def _decisive(self, config: ServerConfig, running: _Running) -> set[str]:
        """The options that differ from those of the running shards and matter to their model.

        Raises ConfigError or ModelError where all the others do not go with it.
        """
        shards, resolved = _of_shards(config), running.resolved
        changed = {name for name in {**shards, **running.shards} if shards.get(name) != running.shards.get(name)}
        if not changed or not changed <= without_effect([]):
            return changed
        spec = self._look(config, resolved.num_shard, resolved.dtype)(
            Path(resolved.model_dir), ask=None if resolved.description is None else lambda _: resolved.description
        )
        return changed - without_effect(group.kind for group in spec.groups)

    def _without_router(self) -> bool:
        """Have the router leave the shards; False when these have to be stopped, too."""
        assert self._running is not None
        self._running.router = None
        if self._running.server.stop_router():
            return True
        logger.warning("the shards may not have worked on the same steps: all is started anew")
        self._end()
        return False

    def _look(self, config: ServerConfig, num_shard: int, dtype: DType) -> Callable[..., Description]:
        method: QuantizeMethod = load.instantiate(config.quantize)
        return partial(described, config=config, num_shard=num_shard, dtype=dtype, quantize=method)

    def _started(self, run: Composition, gpus: int, bar: bool) -> _Running:
        """The shards of a configuration."""
        config = run.config
        num_shard = check.number_of_shards(config, gpus)
        dtype = config.dtype or hardware.preferred_dtype(gpu=gpus > 0)
        with ExitStack() as held:
            place = "no port" if config.node_rank else _place(self._listener(config))
            held.enter_context(sockets.claim_paths(config))
            own = local_ranks(config, num_shard)
            sockets.clear(config, sockets.shard_paths(config, own))
            if num_shard > 1 and not config.node_rank:
                sockets.check_master_port(config)
            count = num_shard if config.num_nodes == 1 else f"{len(own)} of {num_shard}"
            logger.info("%s shard(s), %s, %s", count, dtype.name, place)
            others = held.enter_context(role.of(config, num_shard, dtype, gpus > 0, self._stop))
            look = self._look(config, num_shard, dtype)
            model, description = prepare.prepare(config, dtype, self._fetch, look, others.check, bar)
            agreed = others.agree(lambda: agreement.of_files(model))
            resolved = replace(
                prepare.resolved(model, num_shard, dtype, gpu=gpus > 0),
                description=description, node_hosts=agreed.hosts, call_key=agreed.key,
            )  # fmt: skip
            server = held.enter_context(Server(self._programs, self._stop, others))
            began = time.monotonic()
            settled = server.start_shards(config, resolved, bar)
            resolved = replace(resolved, load_seconds=round(time.monotonic() - began, 3))
            return _Running(server, held.pop_all(), resolved, _of_shards(config), settled)

    def _listener(self, config: ServerConfig) -> socket.socket:
        """A socket bound to the configured address, kept as long as that is the same; or the one that was given."""
        if self._given is not None:
            return self._given
        if self._port != (config.hostname, config.port):
            self._ports.close()
            self._port = None
            self._ports.enter_context(sockets.claim_port(config))
            self._bound = self._ports.enter_context(sockets.bind(config))
            self._port = config.hostname, config.port
        return self._bound

    def _end(self) -> None:
        """Stop what runs, and free the address."""
        running, self._running = self._running, None
        try:
            if running is not None:
                running.held.close()
        finally:
            self._port = None
            self._ports.close()

    def _introduce(self, run: Composition) -> None:
        for warning in [*self._arguments.warnings, *self._arguments.suspects]:
            logger.warning(warning)
        if self._arguments.report:
            level = max(logging.INFO, logger.getEffectiveLevel())  # whatever log_level is, it was asked for
            for line in report.lines(run):
                logger.log(level, line)
        changed = describe.changed(run.config, run.origins)
        logger.info("options that differ from their defaults: %s", ", ".join(changed) or "none")


def _concerned(config: ServerConfig, *kinds: str) -> dict[str, Any]:
    """The values of the options that concern one of these."""
    values = options.values(config, whole=True)
    return {name: value for name, value in values.items() if not set(kinds).isdisjoint(options.concerns(name))}


def _of_shards(config: ServerConfig) -> dict[str, Any]:
    """The values of the options that shards are made of; of prompts that are `auto` what bounds these."""
    bounded = lengths.longest(config, None)
    return _concerned(bounded, "shard") | {"max_total_tokens": config.max_total_tokens}


def _place(listener: socket.socket) -> str:
    """Where it listens, in words."""
    if listener.family == socket.AF_UNIX:
        return f"socket {listener.getsockname()}"
    return f"port {listener.getsockname()[1]}"


def _join(server: Server, thread: threading.Thread) -> None:
    """Give work a moment that is told to stop. Raises ChildFailedError."""
    deadline = time.monotonic() + _MOMENT
    server.watch(lambda: not thread.is_alive() or time.monotonic() > deadline)
