"""The router process: `python -m tgi_server.router.main`, started by the launcher with a `Launch` on standard input."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from quart import Quart

from tgi_server import tokenizer_file
from tgi_server.config import load
from tgi_server.config.schema import Launch, NetworkOptions
from tgi_server.engine.engine import Engine
from tgi_server.errors import ConfigError, TgiError
from tgi_server.placement import placements
from tgi_server.router.chat.template import find_template
from tgi_server.router.http import tunnel
from tgi_server.router.http.clients import Clients, allow_many
from tgi_server.router.http.protocol import HttpProtocol
from tgi_server.router.http.turned_away import TurnedAway
from tgi_server.router.memory import returned_when_idle
from tgi_server.rpc.client import GrpcShards
from tgi_server.telemetry import logging as log_setup
from tgi_server.telemetry import signs
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import UNSETTLED

logger = logging.getLogger("tgi_server.router.main")  # this module runs as __main__

KEEP_ALIVE_SECONDS = 75
"""An idle connection lives longer than in the pools of usual clients and proxies, so that these close first."""

LAST_WORDS_SECONDS = 5
"""Time to write the answers of requests that were ended."""


def main() -> None:
    """Serve until SIGTERM or SIGINT; exit status 1 when the start or a shard fails."""
    launch = load.read(sys.stdin)
    log_setup.setup(launch.config, "router")
    allow_many()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            status = runner.run(run(launch))
    except TgiError as error:
        print(f"Error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


async def run(launch: Launch) -> int:
    """Connect, serve, drain; returns the exit status."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config, resolved = launch.config, launch.resolved
    tokenizer = tokenizer_file.read(Path(resolved.model_dir) / "tokenizer.json")
    template = find_template(Path(resolved.model_dir), config.tokenizer_config_path)
    metrics = Metrics(config.max_input_length, config.max_total_tokens)
    places = placements(config, resolved.num_shard, resolved.node_hosts)
    shards = GrpcShards(places, resolved.call_key)
    engine = Engine(shards, config, tokenizer, metrics)
    if not await started(engine, stop):
        return 0
    app = load.instantiate(
        config.router,
        config=config,
        resolved=resolved,
        engine=engine,
        tokenizer=tokenizer,
        template=template,
        metrics=metrics,
    )
    with signs.of_this_loop() if resolved.watched else contextlib.nullcontext():
        async with tunnel.opened(config) as private:
            listeners = [socket.socket(fileno=resolved.listen_fd), *private]
            async with returned_when_idle(lambda: engine.idle):
                return await serve(app, engine, listeners, stop, config)


async def started(engine: Engine, stop: asyncio.Event) -> bool:
    """Start `engine`; False when `stop` was set before all shards answered."""
    starting = asyncio.create_task(engine.start())
    await _first(stop.wait(), asyncio.shield(starting))
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        await engine.stop()
        return False
    try:
        await starting
    except TgiError:
        await engine.stop()  # the shards are to be left in order
        raise
    return True


async def serve(
    app: Quart, engine: Engine, listeners: Sequence[socket.socket], stop: asyncio.Event, options: NetworkOptions
) -> int:
    """Serve `app` on bound sockets until `stop` is set or the engine fails; returns the exit status.

    Args:
        options: how long clients have to send and to read, and running requests to finish after `stop`.

    Raises:
        ConfigError: the first of the sockets cannot listen, because another one does.
    """
    host, port = listeners[0].getsockname()[:2]
    server = Server(app, options, engine.metrics)
    serving = asyncio.create_task(server.serve(sockets=list(listeners)))
    await _first(stop.wait(), engine.failed.wait(), asyncio.shield(serving))
    if not (engine.failed.is_set() or serving.done()):
        await drain(server, engine, options.shutdown_timeout)
    failed = engine.failed.is_set()
    settled = await engine.stop()
    server.should_exit = True
    try:
        await serving
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    if failed:
        logger.error("Stopped because the shards are lost")
        return 1
    if not settled:
        logger.warning("Stopped while the shards still worked")
        return UNSETTLED
    return 0


async def drain(server: Server, engine: Engine, grace: float) -> None:
    """Refuse new requests and wait for the running ones, `grace` seconds at most (decision D23)."""
    engine.begin_drain()
    deadline = time.monotonic() + grace
    requests = server.server_state.tasks
    logger.info("Shutting down: %d requests left", len(requests))
    while requests and (rest := deadline - time.monotonic()) > 0:
        await asyncio.wait(set(requests), timeout=rest)
    if requests:
        logger.warning("Ending %d requests that were not done after %g s", len(requests), grace)


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: when to stop is decided by `serve`."""

    def __init__(self, app: Quart, options: NetworkOptions, metrics: Metrics) -> None:
        clients, turned_away = Clients(options.max_client_connections), TurnedAway(metrics)
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(HttpProtocol, options, clients, turned_away),  # type: ignore[arg-type]  # called like a class
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=LAST_WORDS_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        await super().startup(sockets)
        for listener in sockets or []:
            if listener.family != socket.AF_UNIX:
                logger.info("Serving on %s port %s", *listener.getsockname()[:2])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


async def _first(*events: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> None:
    tasks = [asyncio.ensure_future(event) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    main()
