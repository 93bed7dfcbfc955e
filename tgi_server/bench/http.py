"""HTTP/1.1 requests on kept connections, with nothing between the socket and who reads the body.

A client library costs more a token than a server's whole answer; this one must never be the slower side.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

from tgi_server.errors import ConfigError, UsageError


class BenchError(ConfigError):
    """The server cannot be measured."""


@dataclass(frozen=True)
class Target:
    """Where a server listens. `path` is what comes before `/v1/...`, often empty; `key` is sent, but never shown."""

    host: str
    port: int
    path: str = ""
    secure: bool = False
    key: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Target:
        """The target of a URL; a final `/v1` may be there or not. Raises UsageError."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise UsageError(f"target={url}: {error}") from None
        if parts.username is not None:  # not repeated: it may be a secret
            raise UsageError("target: a URL with a user name or password, which are not sent")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UsageError(f"target={url}: expected a URL like http://127.0.0.1:8000")
        if not re.fullmatch("[!-~]+", url):
            raise UsageError(f"target={url}: spaces and letters beyond ASCII must be percent-encoded (%20)")
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, port, path, parts.scheme == "https")

    @property
    def _place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"http{'s' if self.secure else ''}://{self._place}{self.path}"

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The bytes of a request with a JSON body."""
        key = "" if self.key is None else f"authorization: Bearer {self.key}\r\n"
        head = (
            f"{method} {self.path}{path} HTTP/1.1\r\nhost: {self._place}\r\naccept: */*\r\n"
            f"content-type: application/json\r\n{key}content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection, one request at a time. After an answer it is `reusable` if the server keeps it open."""

    def __init__(self) -> None:
        self.reusable = True
        self._transport: asyncio.Transport | None = None
        self._sink: Callable[[bytes], None] = lambda data: None
        self._answer: asyncio.Future[int] | None = None
        self._framed = False
        self._location = b""
        self.heard = False  # anything of the answer

    @classmethod
    async def open(cls, target: Target) -> Connection:
        """Connect; raises OSError."""
        context = ssl.create_default_context() if target.secure else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, target.host, target.port, ssl=context)
        return connection

    async def send(self, request: bytes, sink: Callable[[bytes], None]) -> int:
        """Send a request and give the body of its answer to `sink`, piece by piece as it arrives.

        Returns the status code; raises ConnectionError when the answer is cut short, is no HTTP or sends elsewhere,
        and whatever `sink` raises.
        """
        assert self._transport is not None
        if self._transport.is_closing():
            raise ConnectionError("the server closed the connection")
        self._sink, self._framed, self._location, self.heard = sink, False, b"", False
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self.reusable = False
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Leave at once, also in the middle of an answer."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # that of another loop is no subclass

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # what follows is no HTTP; the status has been told
            self.close()
        except (httptools.HttpParserError, AttributeError) as error:  # AttributeError: it spoke before it was asked
            self._finish(ConnectionError(f"the answer is not HTTP ({error})"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`. A body without a length ends here; any other one was cut short."""
        self.reusable = False
        status = 0 if self._answer is None or self._framed else self._parser.get_status_code()
        if status >= 200:
            self._complete(status)
        else:
            self._finish(error or ConnectionError("the server closed the connection"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        name = name.lower()
        self._framed |= name in (b"content-length", b"transfer-encoding")
        if name == b"location":
            self._location = value

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        try:
            self._sink(data)
        except Exception as error:  # the parser would take it for a mistake of the server's
            self._finish(error)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:  # such as 100 Continue: the answer is still to come
            self._framed = False
            return
        self.reusable = self._parser.should_keep_alive()
        self._complete(status)

    def _complete(self, status: int) -> None:
        if 300 <= status < 400 and self._location:
            self._finish(ConnectionError(f"status {status}: moved to {self._location.decode(errors='replace')[:200]}"))
        else:
            self._finish(status)

    def _finish(self, outcome: int | Exception) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(outcome, int):
            self._answer.set_result(outcome)
        else:
            self._answer.set_exception(outcome)


class Pool:
    """Connections to one server: those that are free are used again."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._free: list[Connection] = []

    async def send(self, request: bytes, sink: Callable[[bytes], None]) -> int:
        """See `Connection.send`; leaving it early closes the connection.

        A server may close a connection it kept just when it is used again: then the request goes out on a new one.
        """
        if kept := self._take():
            try:
                return await self._through(kept, request, sink)
            except ConnectionError:
                if kept.heard:
                    raise
        return await self._through(await Connection.open(self.target), request, sink)

    async def _through(self, connection: Connection, request: bytes, sink: Callable[[bytes], None]) -> int:
        try:
            return await connection.send(request, sink)
        finally:
            if connection.reusable:
                self._free.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close all that are free."""
        while self._free:
            self._free.pop().close()

    def _take(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.reusable:  # not closed by the server meanwhile
                return connection
        return None
