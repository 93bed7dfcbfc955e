"""The server behind an ngrok tunnel (option `ngrok`).

The tunnel leads to a unix socket that only this user can reach, and there to everything; the address that the server
listens on otherwise is left with what operators need. Imports the package ngrok only when it is used.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgi_server.config.schema import NetworkOptions
from tgi_server.errors import ConfigError
from tgi_server.router.http.stream import Asgi

if TYPE_CHECKING:
    import ngrok

logger = logging.getLogger(__name__)

LOCAL_PATHS = ("/health", "/livez", "/metrics", "/readyz", "/startupz")
"""What the server's own address still answers."""
CONNECT_SECONDS = 30.0
"""Time to reach the service."""


class LocalPaths:
    """ASGI middleware: requests that came over TCP find LOCAL_PATHS only."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection or request, as ASGI has it."""
        if scope["type"] != "http" or scope["path"] in LOCAL_PATHS or _from_unix_socket(scope):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def _from_unix_socket(scope: Any) -> bool:
    server = scope.get("server")
    return server is not None and server[1] is None  # ASGI: the path of the socket, and no port


@asynccontextmanager
async def opened(options: NetworkOptions) -> AsyncIterator[list[socket.socket]]:
    """Open the tunnel if there is to be one; the socket to serve it on is listening already.

    Raises:
        ConfigError: the service cannot be reached, or refuses the account or its edge.
    """
    if not options.ngrok:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="tgi-tunnel-") as directory, socket.socket(socket.AF_UNIX) as private:
        path = Path(directory) / "router"
        private.bind(str(path))
        private.listen()
        session = await _connected(options, path)
        try:
            yield [private]
        finally:
            await session.close()


async def _connected(options: NetworkOptions, path: Path) -> ngrok.Session:
    """A session of the account whose edge leads to the socket at `path`."""
    import ngrok

    assert options.ngrok_authtoken is not None and options.ngrok_edge is not None  # the launcher has checked
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            session = await ngrok.SessionBuilder().authtoken(options.ngrok_authtoken).connect()
            listener = session.labeled_listener().label("edge", options.ngrok_edge)
            await listener.listen_and_forward(f"unix:{path}")
    except TimeoutError:
        raise ConfigError(f"ngrok=true: the service did not answer within {CONNECT_SECONDS:g} s") from None
    except Exception as error:  # the binding has no class of its own
        text = " ".join(" ".join(map(str, error.args)).split())  # the service's answers have several lines
        raise ConfigError(f"ngrok=true: {text.replace(options.ngrok_authtoken, '***')}") from None
    logger.info("ngrok edge %s leads here; only %s are served locally", options.ngrok_edge, ", ".join(LOCAL_PATHS))
    return session
