"""HTTP/1.1 as uvicorn speaks it, where it meets clients of other habits or of ill will."""

from __future__ import annotations

import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers, and whatever else a client may send without it being part of a body."""

_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)


class HttpProtocol(HttpToolsProtocol):
    """One connection. On its own, uvicorn would lose the body of a request that offers HTTP/2, keep a request's head
    in memory however long it gets, wait for ever for a client that says nothing, and work on for a client that went
    away after it had sent a second request ahead of time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading_head = True
        self._head_bytes = 0
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        """Give the client as long for its first byte as for the one after an answer."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that is worked on, also when it is not the last one that came."""
        self._unset_keepalive_if_required()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that does not end."""
        self._head_bytes += len(data)
        super().data_received(_without_upgrade(data) if self._reading_head else data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Request head is too long.")

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self._reading_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of a body; the application looks after its length."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body has ended."""
        self._reading_head, self._head_bytes = True, 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)


def _without_upgrade(data: bytes) -> bytes:
    """Hide an offer to change the protocol, which a server may pass over: the parser would stop at it."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
