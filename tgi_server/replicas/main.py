"""The process that all requests come by: `python -m tgi_server.replicas.main`, a `Launch` on its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TextIO

import uvloop

from tgi_server.cache.lengths import longest
from tgi_server.config import load
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import ConfigError, TgiError
from tgi_server.launcher import sockets
from tgi_server.replicas.cluster import Deployment
from tgi_server.replicas.connection import connected
from tgi_server.replicas.front import Front
from tgi_server.replicas.merge import named
from tgi_server.replicas.options import RayOptions
from tgi_server.replicas.returns import Returns
from tgi_server.router.http.clients import allow_many
from tgi_server.router.http.cors import Cors
from tgi_server.router.main import Server
from tgi_server.telemetry import logging as log_setup
from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.process import read_process

_LOOK = 1.0
"""Seconds between two looks at the replicas: how many there are, and what they have logged."""
_START = 30.0
"""Seconds of a start between two lines that say what is waited for."""

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
    with sockets.claim_port(config), sockets.bind(config) as listener, connected(options) as host:
        _set_by_signals(stop)  # again, as Ray has put handlers of its own in the place of these
        returns = Returns()
        deployment = Deployment(_name(listener), options, config, returns)
        started = False
        async with returns.listening(host):
            try:
                if started := await _started(deployment, stop):
                    await serve(config, deployment, listener, stop, log)
            finally:
                if started or options.ray_address:  # what does not serve yet ends with our own Ray
                    await asyncio.to_thread(deployment.stop)


def _name(listener: socket.socket) -> str:
    """Of the application: a cluster has several, of commands on any host, that may all have the same port.

    The same command on the same host takes over what one that was killed has left.
    """
    return f"tgi-server-{socket.gethostname()}-{listener.getsockname()[1]}"


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


async def _started(deployment: Deployment, stop: asyncio.Event) -> bool:
    """Start the replicas, and say from time to time what is waited for; False when `stop` was set before they ran."""
    telling = asyncio.ensure_future(_repeat(_START, partial(asyncio.to_thread, _tell_start, deployment)))
    try:
        return await _unless(stop, deployment.start)
    finally:
        telling.cancel()


def _tell_start(deployment: Deployment) -> None:
    logger.info("Still waiting for %s", deployment.waits_for())


async def serve(
    config: ServerConfig, deployment: Deployment, listener: socket.socket, stop: asyncio.Event, log: TextIO
) -> None:
    """Until `stop`, and then until the last request is done, `shutdown_timeout` seconds at most.

    Raises:
        ConfigError: the socket cannot listen, because another one does.
        DeletedError: somebody else has ended the replicas.
    """
    metrics = _metrics(config, deployment)
    front = Front(deployment, config.payload_limit, metrics, config.messages_api_enabled)
    server = Server(Cors(front, config.cors_allow_origin), config, metrics)  # type: ignore[arg-type]  # any ASGI application will do
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    looking = asyncio.ensure_future(_repeat(_LOOK, partial(_look, deployment, front)))
    telling = asyncio.ensure_future(_repeat(_LOOK, partial(_tell, deployment, log)))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([stopping, serving, looking, telling], return_when=asyncio.FIRST_COMPLETED)
    ended = [each for each in (looking, telling) if each.done()]
    front.draining = True
    if stop.is_set():
        await _drain(server, config.shutdown_timeout)
    front.end_all()
    server.should_exit = True
    try:
        await serving
    except OSError as error:
        host, port = config.hostname, config.port
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    finally:
        for each in (stopping, looking, telling):
            each.cancel()
        await asyncio.wait([looking, telling])
    for each in ended:
        await each  # raises what ended it
    await _tell(deployment, log)


async def _drain(server: Server, grace: float) -> None:
    requests = server.server_state.tasks
    logger.info("Shutting down: %d requests left", len(requests))
    if requests:
        await asyncio.wait(set(requests), timeout=grace)
    if requests:
        logger.warning("Ending %d requests that were not done after %g s", len(requests), grace)


def _metrics(config: ServerConfig, deployment: Deployment) -> Metrics:
    bounds = longest(config, None)  # of what may be `auto`
    metrics, numbers = Metrics(bounds.max_input_length, bounds.max_total_tokens), deployment.numbers
    read_process(metrics)
    metrics.read("tgi_replicas_running", lambda: numbers.running)
    metrics.read("tgi_replicas_wanted", lambda: numbers.wanted)
    metrics.read("tgi_replicas_lost", lambda: numbers.lost)
    return metrics


async def _repeat(pause: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do it again and again, after so many seconds each time. Raises what it raises."""
    while True:
        await asyncio.sleep(pause)
        await work()


async def _look(deployment: Deployment, front: Front) -> None:
    await asyncio.to_thread(deployment.look)
    if not deployment.running:
        front.end_waiting()


async def _tell(deployment: Deployment, log: TextIO) -> None:
    """Write what the replicas have logged, each line with its replica."""
    async for name, lines in deployment.lines():
        for line in lines:
            print(named(line, name), file=log)
    log.flush()


if __name__ == "__main__":
    main()
