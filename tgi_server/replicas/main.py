"""The process that all requests come by: `python -m tgi_server.replicas.main`, a `Launch` on its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import TextIO

import uvloop

from tgi_server.cache.lengths import longest
from tgi_server.config import load
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import TgiError
from tgi_server.launcher import sockets
from tgi_server.replicas.cluster import Deployment, connected
from tgi_server.replicas.front import Front
from tgi_server.replicas.merge import named
from tgi_server.replicas.options import RayOptions
from tgi_server.router.http.clients import allow_many
from tgi_server.router.main import Server
from tgi_server.telemetry import logging as log_setup
from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.process import read_process

_LOOK = 1.0
"""Seconds between two looks at the replicas: how many there are, and what they have logged."""

logger = logging.getLogger("tgi_server.replicas.main")  # this module runs as __main__


def main() -> None:
    """Serve until SIGTERM or SIGINT; exit status 1 when the start fails."""
    launch = load.read(sys.stdin)
    log_setup.setup(launch.config, "front")
    allow_many()
    log = sys.stdout
    try:
        with (
            contextlib.redirect_stdout(sys.stderr),  # what Ray prints is no line of ours
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_run(launch.config, load.instantiate(launch.config.job), log))
    except TgiError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


async def _run(config: ServerConfig, options: RayOptions, log: TextIO) -> None:
    stop = asyncio.Event()
    _set_by_signals(stop)
    with sockets.claim_port(config), sockets.bind(config) as listener, connected(options):
        _set_by_signals(stop)  # again, as Ray has put handlers of its own in the place of these
        port = listener.getsockname()[1]
        deployment = Deployment(f"tgi-server-{port}", options, config)
        started = False
        try:
            if started := await _unless(stop, deployment.start):
                await _serve(config, deployment, listener, stop, log)
        finally:
            if started or options.ray_address:  # what does not serve yet ends with our own Ray
                await asyncio.to_thread(deployment.stop)


def _set_by_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _unless(stop: asyncio.Event, work: Callable[[], object]) -> bool:
    """Do blocking work in a thread; False when `stop` was set before it was done. Raises what it raises."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    waiting = asyncio.ensure_future(stop.wait())
    await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not working.done():
        working.add_done_callback(lambda done: done.cancelled() or done.exception())  # it fails when Serve is gone
        return False
    await working
    return True


async def _serve(
    config: ServerConfig, deployment: Deployment, listener: socket.socket, stop: asyncio.Event, log: TextIO
) -> None:
    """Until `stop`, and then until the last request is done, `shutdown_timeout` seconds at most."""
    bounds = longest(config, None)  # of what may be `auto`
    metrics = Metrics(bounds.max_input_length, bounds.max_total_tokens)
    read_process(metrics)
    front = Front(deployment, config.payload_limit, metrics.render)
    server = Server(front, config, metrics)  # type: ignore[arg-type]  # any ASGI application will do
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    watching = asyncio.ensure_future(_watch(deployment, log))
    await stop.wait()
    front.draining = True
    requests = server.server_state.tasks
    logger.info("Shutting down: %d requests left", len(requests))
    if requests:
        await asyncio.wait(set(requests), timeout=config.shutdown_timeout)
    server.should_exit = True
    await serving
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await _tell(deployment, log)


async def _watch(deployment: Deployment, log: TextIO) -> None:
    while True:
        await asyncio.to_thread(deployment.look)
        await _tell(deployment, log)
        await asyncio.sleep(_LOOK)


async def _tell(deployment: Deployment, log: TextIO) -> None:
    """Write what the replicas have logged, each line with its replica."""
    for name, lines in await deployment.lines():
        for line in lines:
            print(named(line, name), file=log)
    log.flush()


if __name__ == "__main__":
    main()
