"""The one address of all replicas: an ASGI application that passes requests on and answers back, as they come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from tgi_server.errors import GenerationError, ShuttingDownError, TgiError, UnhealthyError
from tgi_server.replicas import prompt
from tgi_server.replicas.call import Call, Head, passed_on
from tgi_server.replicas.merge import merged
from tgi_server.router.anthropic import errors as anthropic
from tgi_server.router.http.wire import dumps
from tgi_server.router.openai import errors as openai
from tgi_server.telemetry.metrics import CONTENT_TYPE

METRICS = "/metrics"
LIVE = {"/livez", "/startupz"}
"""Pages by which a process says that it runs, whatever others do."""
HEALTH = {"/", "/health", "/ping", "/readyz"}
"""Pages by which a server says that it is well: all replicas are asked, and one that is well will do."""
_ANTHROPIC = "/v1/messages"
_EVENTS = b"text/event-stream"
_LOST = "the replica that worked on the request was lost"

logger = logging.getLogger(__name__)


class Replicas(Protocol):
    """The running replicas, as the front sees them."""

    @property
    def running(self) -> int:
        """How many there were at the last look."""

    def send(self, call: Call) -> AsyncIterator[Head | bytes]:
        """The answer of one of them. Raises LostError where that dies meanwhile."""

    async def all(self, call: Call) -> list[tuple[Head, bytes]]:
        """The answers of all of them that answer."""

    async def metrics(self) -> dict[str, str]:
        """What each says at /metrics, by its name."""


class LostError(Exception):
    """A replica died, or did not answer any more."""


class Front:
    """An ASGI application.

    Attributes:
        draining: whether new requests are refused.

    Args:
        payload_limit: longest body in bytes; of longer ones so much is passed on that the replica refuses them.
        own: the metrics of this process.
    """

    def __init__(self, replicas: Replicas, payload_limit: int, own: Callable[[], str]) -> None:
        self.draining = False
        self._replicas = replicas
        self._limit = payload_limit
        self._own = own

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body = await _body(receive, self._limit)
        if body is None:
            return
        relay = asyncio.ensure_future(self._answer(scope, body, send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait([relay, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not relay.done():
                relay.cancel()  # which ends the request at its replica
        with contextlib.suppress(asyncio.CancelledError):
            await relay

    async def _answer(self, scope: Any, body: bytes, send: Any) -> None:
        read = scope["method"] in ("GET", "HEAD")
        if read and scope["path"] == METRICS:
            await self._tell_metrics(send)
        elif read and scope["path"] in LIVE:
            await _plain(200, b"text/plain; charset=utf-8", b"", send)
        elif self.draining:
            await _refuse(scope, ShuttingDownError() if scope["method"] == "POST" else UnhealthyError(), send)
        elif not self._replicas.running:
            await _refuse(scope, UnhealthyError("no replica is running"), send)
        elif read and scope["path"] in HEALTH:
            await self._tell_health(scope, send)
        else:
            await self._relay(scope, _call(scope, body), send)

    async def _relay(self, scope: Any, call: Call, send: Any) -> None:
        head: Head | None = None
        try:
            async with aclosing(self._replicas.send(call)) as answer:  # type: ignore[type-var]  # a generator
                async for piece in answer:
                    if isinstance(piece, Head):
                        head = piece
                        await send({"type": "http.response.start", "status": head.status, "headers": head.headers})
                    else:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
        except LostError as error:
            logger.warning("%s %s: %s", call.method, scope["path"], error)
            await _tell_loss(scope, head, send)
            return
        await send({"type": "http.response.body", "body": b""})

    async def _tell_health(self, scope: Any, send: Any) -> None:
        answers = await self._replicas.all(_call(scope, b""))
        if not answers:
            await _refuse(scope, UnhealthyError("no replica answers"), send)
            return
        head, body = min(answers, key=lambda answer: answer[0].status)
        await send({"type": "http.response.start", "status": head.status, "headers": head.headers})
        await send({"type": "http.response.body", "body": body})

    async def _tell_metrics(self, send: Any) -> None:
        texts = await self._replicas.metrics()
        text = merged({**dict(sorted(texts.items())), "front": self._own()}).encode()
        await _plain(200, CONTENT_TYPE.encode(), text, send)


def _call(scope: Any, body: bytes) -> Call:
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return Call(
        method=scope["method"],
        target=(scope["raw_path"] + query).decode("latin-1"),
        headers=passed_on(scope["headers"], b"content-length", b"expect"),
        body=body,
        keys=prompt.keys(body) if body else [],
    )


async def _body(receive: Any, limit: int) -> bytes | None:
    """The body of a request, of a longer one `limit` + 1 bytes; None where the client goes away."""
    pieces, length, more = [], 0, True
    while more and length <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        length += len(pieces[-1])
        more = message.get("more_body", False)
    return b"".join(pieces)[: limit + 1]


async def _gone(receive: Any) -> None:
    """Until the client is gone; what it still sends of a body that is too long is nobody's."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _plain(status: int, content_type: bytes, body: bytes, send: Any) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(scope: Any, error: TgiError, send: Any) -> None:
    """An error in the words of the API that was asked."""
    status, body = _told(scope["path"], error)
    await _plain(status, b"application/json", body, send)


async def _tell_loss(scope: Any, head: Head | None, send: Any) -> None:
    """An error as the answer, or as the last event of one that has begun; any other is cut off in its middle."""
    error = GenerationError(_LOST)
    if head is None:
        await _refuse(scope, error, send)
    elif any(key.lower() == b"content-type" and value.startswith(_EVENTS) for key, value in head.headers):
        name = b"event: error\n" if scope["path"].startswith(_ANTHROPIC) else b""
        event = name + b"data: " + _told(scope["path"], error)[1] + b"\n\n"
        await send({"type": "http.response.body", "body": event})
    else:
        raise ConnectionAbortedError(_LOST)


def _told(path: str, error: TgiError) -> tuple[int, bytes]:
    if path.startswith(_ANTHROPIC):
        return anthropic.error_status(error), dumps(anthropic.envelope(error, ""))
    if path.startswith("/v1/"):
        return openai.error_status(error), dumps(openai.envelope(error))
    return error.status, dumps({"error": error.public_message(), "error_type": error.error_type})
