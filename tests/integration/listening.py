"""The router of `tests.router_app` on a real port, and a client that is close to the wire."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.router_app import Router, started
from tgi_server.config.schema import NetworkOptions
from tgi_server.router.main import serve

NETWORK = {"shutdown_timeout", "receive_timeout", "send_timeout", "max_client_connections"}
"""The options that `serve` reads."""


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[tuple[Router, int]]:
    """A router on a real server and a port, in this process; and on the listening sockets `also`."""
    network = NetworkOptions(**{"shutdown_timeout": 0, **{name: options.pop(name) for name in NETWORK & set(options)}})
    also: list[socket.socket] = options.pop("also", [])
    async with started(**options) as router:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as uvloop has it; asyncio alone has not here
        stop = asyncio.Event()
        port = listener.getsockname()[1]
        serving = asyncio.create_task(serve(router.app, router.engine, [listener, *also], stop, network))
        try:
            yield router, port
        finally:
            stop.set()
            await serving


async def send(port: int, path: str, body: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An open connection with a request written to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


async def until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
