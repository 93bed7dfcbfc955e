"""Which web pages may call this server (cross-origin resource sharing, the CORS protocol of the Fetch standard)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgi_server.router.http.stream import Asgi

Header = tuple[bytes, bytes]

METHODS = b"GET,POST"
HEADERS = b"content-type,authorization,x-api-key"
"""Request headers that pages may send where a preflight does not name any."""


class Cors:
    """ASGI middleware, the outermost: it answers preflights itself and adds its headers to every answer, errors too.

    Args:
        origins: that may call; any when empty or when one of them is `*`.
    """

    def __init__(self, app: Asgi, origins: Sequence[str]) -> None:
        self._app = app
        self._any = not origins or "*" in origins
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection or request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = dict(scope["headers"])
        added = self._headers(asked.get(b"origin"))
        if scope["method"] == "OPTIONS" and b"origin" in asked and b"access-control-request-method" in asked:
            wanted = asked.get(b"access-control-request-headers") if self._may_call(asked[b"origin"]) else None
            await _answer_preflight(added, wanted or HEADERS, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _may_call(self, origin: bytes) -> bool:
        return self._any or origin in self._origins

    def _headers(self, origin: bytes | None) -> list[Header]:
        if self._any:
            return [(b"access-control-allow-origin", b"*")]
        allowed = [(b"access-control-allow-origin", origin)] if origin is not None and self._may_call(origin) else []
        return [*allowed, (b"vary", b"origin")]  # caches keep one answer an origin


async def _answer_preflight(added: Sequence[Header], wanted: bytes, send: Any) -> None:
    """What a browser asks before it sends a request that an HTML form could not send.

    Whoever may call may send any header: client libraries have several of their own. `wanted` names them.
    """
    headers = [
        *added,
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", wanted),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
