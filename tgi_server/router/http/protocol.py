"""HTTP/1.1 as uvicorn speaks it, where it meets clients of other habits, slow ones, or such of ill will."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tgi_server.config.schema import NetworkOptions
from tgi_server.router.http.clients import Clients
from tgi_server.router.http.turned_away import TurnedAway

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers, and whatever else a client may send without it being part of a body."""

MAX_UNSENT_BYTES = 16 * 1024
"""What the kernel keeps of an answer beyond what the client has room for; by itself it would take 4 MB of each.

A stream that nobody reads holds these, one write of 64 events (10 KB, with five alternatives a token 40 KB), and the
events behind them, 230 bytes (1 KB) a token, at most `max_total_tokens` of them: at the default limits 0.5 MB (2 MB).
"""

LEAST_READ_BYTES = 4 * 1024
"""What a client that has fallen behind has to read within `send_timeout` seconds, or all that waits if that is less."""

_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)
_TOO_MANY = b"Too many connections from this address."
_LATE = b"The request did not arrive in time."
_NO_HOST = b"A request of HTTP/1.1 needs one Host header."


class HttpProtocol(HttpToolsProtocol):
    """One connection. On its own, uvicorn would lose the body of a request that offers HTTP/2, keep a request's head
    in memory however long it gets, wait for ever for a client that says or reads nothing, work on for a client that
    went away after it had sent a second request ahead of time, serve requests that name no host, and keep as many
    connections of one client as it opens."""

    def __init__(
        self, options: NetworkOptions, clients: Clients, turned_away: TurnedAway, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._turned_away = turned_away
        self._options = options
        self._clients = clients
        self._client: str | None = None
        self._reading_head = True
        self._head_bytes = 0
        self._running: RequestResponseCycle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._arriving: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: Any) -> None:
        """Give the client as long for its first byte as for the one after an answer; refuse one with too many."""
        super().connection_made(transport)
        self._client = self._clients.admit(self.client[0] if self.client else "")
        if self._client is None:
            self._turned_away.add(429, "more than max_client_connections connections of one address")
            transport.write(_plain(b"429 Too Many Requests", _TOO_MANY))
            transport.close()
            return
        _bound_kernel(transport.get_extra_info("socket"), self._options.send_timeout)
        transport.set_write_buffer_limits(high=0)  # whatever the kernel does not take makes the writer wait
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that is worked on, also when it is not the last one that came."""
        if self._client is not None:
            self._clients.leave(self._client)
        self._unset_keepalive_if_required()
        for timer in (self._idle, self._arriving, self._writing, self._ending):
            if timer is not None:
                timer.cancel()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that does not end."""
        self._head_bytes += len(data)
        self._idle, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        super().data_received(_without_upgrade(data) if self._reading_head else data)
        self.timeout_keep_alive_task = self._idle  # empty lines between requests are not the beginning of one
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Request head is too long.")

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read."""
        self._turned_away.add(400, "it is not HTTP/1.1, or its head is too long")
        super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """A request has begun, and from now on its time runs."""
        super().on_message_begin()
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._arriving = self.loop.call_later(self._options.receive_timeout, self._late)

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
        if self._arriving is not None:
            self._arriving.cancel()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client has fallen behind: so much of an answer waits that the kernel takes no more."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The kernel has taken everything."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def shutdown(self) -> None:
        """The server stops: cut off who is behind then, before uvicorn cancels the request with a traceback."""
        super().shutdown()
        patience = self.config.timeout_graceful_shutdown or 0
        self._ending = self.loop.call_later(0.8 * patience, self._cut_off)

    def _watch(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self._options.send_timeout, self._stalled)

    def _stalled(self) -> None:
        """Cut off a client that is behind, unless it has read enough since the last look."""
        if self._unread - self.transport.get_write_buffer_size() >= LEAST_READ_BYTES:
            self._watch()
            return
        logger.info("A client that read nothing for %g s is cut off", self._options.send_timeout)
        self._cut_off()

    def _cut_off(self) -> None:
        """End the connection at once; the kernel forgets what it has of the answer, too."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _late(self) -> None:
        """Give up a request that has not arrived, unless the client waits for the answer to the one before."""
        running = self._running
        if running is not None and not (running.more_body or running.response_complete):
            self._arriving = self.loop.call_later(self._options.receive_timeout, self._late)
            return
        if self._reading_head or (running is not None and not running.response_started):
            self._turned_away.add(408, "it did not arrive within receive_timeout")
            self.transport.write(_plain(b"408 Request Timeout", _LATE))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if not _has_host(cycle.scope):
            self._turned_away.add(400, "it does not name one host")
            app = _refuse_hostless
        super()._start_asgi_task(cycle, app)


def _plain(status: bytes, text: bytes) -> bytes:
    """An answer that ends its connection."""
    head = b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(text)) + text


def _has_host(scope: Any) -> bool:
    """Whether it names its host as its version of HTTP demands (RFC 9112, section 3.2)."""
    hosts = [name for name, _ in scope["headers"] if name == b"host"]
    return bool(scope["http_version"] != "1.1") or len(hosts) == 1


async def _refuse_hostless(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers 400 and ends the connection."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(_NO_HOST)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": _NO_HOST})


def _bound_kernel(connection: socket.socket, send_timeout: float) -> None:
    """Limit what the kernel holds of an answer, and let it end a connection whose client is out of reach.

    A client that vanished without a word is noticed while an answer is written, and also while there is none yet.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
    # later than our own timer, which also says so in the log
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(send_timeout * 1500))
    half = max(1, round(send_timeout / 2))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, half)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, half)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _without_upgrade(data: bytes) -> bytes:
    """Hide an offer to change the protocol, which a server may pass over: the parser would stop at it."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
