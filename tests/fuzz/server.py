"""The servers that are tried: the router over shards that take no time, or all of it with the demo model."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil
import uvloop

from tests.integration.server import Server, series
from tests.router_app import says, started
from tgi_server.config.schema import NetworkOptions, ServerConfig
from tgi_server.router.main import serve
from tgi_server.telemetry import logging as log_setup

RECEIVE_TIMEOUT = 1.0
"""Seconds a request has to arrive, which makes slow clients late soon."""
BLOCKS = 1 << 13
"""Of the cache of shards without a model."""
LIMITS: dict[str, Any] = {"max_input_length": 1000, "max_total_tokens": 1024, "payload_limit": 1 << 20}


class Tried(Protocol):
    """A server under trial."""

    port: int

    def log(self) -> str:
        """All that it has written."""

    def processes(self) -> list[psutil.Process]:
        """Those of it that must not grow."""

    def work(self) -> dict[str, float]:
        """What it says it is busy with; all is 0 when it is idle, but `tasks`."""


@dataclass
class Fake:
    """The router's real code in a process of its own, over shards without a model."""

    port: int
    process: psutil.Process
    output: Path
    control: Connection

    def log(self) -> str:
        """See `Tried`."""
        return self.output.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """See `Tried`."""
        return [self.process]

    def work(self) -> dict[str, float]:
        """See `Tried`."""
        self.control.send(None)
        told: dict[str, float] = self.control.recv()
        return told


@contextmanager
def fake(**options: Any) -> Iterator[Fake]:
    """A router over fake shards; `options` are those of `tests.router_app.started`."""
    with tempfile.NamedTemporaryFile() as output:
        parent, child = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_run, args=(child, output.name, options), daemon=True
        )
        process.start()
        try:
            yield Fake(parent.recv(), psutil.Process(process.pid), Path(output.name), parent)
        finally:
            process.kill()
            process.join()


def _run(control: Connection, output: str, options: Mapping[str, Any]) -> None:
    with Path(output).open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    log_setup.setup(ServerConfig(), "router")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_router(control, options))


async def _router(control: Connection, options: Mapping[str, Any]) -> None:
    async with started(says(" quick brown fox"), num_blocks=BLOCKS, **{**LIMITS, **options}) as router:
        router.shards.plans = _Forgetful()
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)

        def tell() -> None:
            control.recv()
            engine = router.engine
            held = BLOCKS - engine._cycle.scheduler._cache.free[0]
            told = {"running": engine.running, "waiting": engine.waiting, "blocks": held}
            control.send({"tasks": len(asyncio.all_tasks()), **told})

        asyncio.get_running_loop().add_reader(control.fileno(), tell)
        control.send(listener.getsockname()[1])
        network = NetworkOptions(shutdown_timeout=0, receive_timeout=RECEIVE_TIMEOUT)
        await serve(router.app, router.engine, [listener], asyncio.Event(), network)


class _Forgetful(list):  # type: ignore[type-arg]
    """Plans are kept for tests; here they would only fill the memory."""

    def append(self, plan: object) -> None:
        pass


SHORT = {**LIMITS, "max_input_length": 160, "max_total_tokens": 192}
"""For the demo model, whose answers take time where a request leaves open how long they may get."""
WORK = ("tgi_queue_size", "tgi_batch_current_size", "tgi_cache_used_blocks")
"""What /metrics calls it."""


class Demo:
    """The demo model, served as users do."""

    def __init__(self, server: Server) -> None:
        self._server, self.port = server, server.port

    def log(self) -> str:
        """See `Tried`."""
        return self._server.output

    def processes(self) -> list[psutil.Process]:
        """See `Tried`."""
        return self._server.family()

    def work(self) -> dict[str, float]:
        """See `Tried`."""
        told = series(httpx.get(f"http://127.0.0.1:{self.port}/metrics").text)
        return {name: value for name, value in told.items() if name.startswith(WORK)}


@contextmanager
def demo(*options: str) -> Iterator[Demo]:
    """The demo model, with these options of the server."""
    limits = [f"{name}={value}" for name, value in SHORT.items()]
    with Server("model=smollm2", f"receive_timeout={RECEIVE_TIMEOUT}", *limits, *options) as server:
        yield Demo(server)
