"""The one address of all replicas: an ASGI application that passes requests on and answers back, as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Protocol

from tgi_server.errors import GenerationError, ShuttingDownError, UnhealthyError
from tgi_server.replicas import paths, prompt
from tgi_server.replicas.answers import Answers
from tgi_server.replicas.call import Call, Head, passed_on
from tgi_server.replicas.merge import merged
from tgi_server.replicas.relay import Relay
from tgi_server.router.http.identity import known_of
from tgi_server.router.http.openapi.operations import REQUEST_ID
from tgi_server.telemetry.metrics import CONTENT_TYPE, Metrics

_ID = REQUEST_ID.encode()


class Replicas(Protocol):
    """The running replicas, as the front sees them."""

    @property
    def running(self) -> int:
        """How many there were at the last look."""

    def send(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        """The answer of one of them. Raises LostError where that dies meanwhile."""

    def all(self, call: Call) -> AsyncGenerator[tuple[Head, bytes], None]:
        """The answers of all of them that answer soon, as they come."""

    async def metrics(self) -> dict[str, str]:
        """What each says at /metrics, by its name."""


class Front:
    """An ASGI application.

    Attributes:
        draining: whether new requests are refused.

    Args:
        payload_limit: longest body in bytes; of longer ones so much is passed on that the replica refuses them.
        metrics: of this process.
        chat: whether `/invocations` speaks the OpenAI API (`messages_api_enabled`).
    """

    def __init__(self, replicas: Replicas, payload_limit: int, metrics: Metrics, chat: bool = False) -> None:
        self.draining = False
        self._replicas = replicas
        self._limit = payload_limit
        self._metrics = metrics
        self._own = Answers(metrics, chat)
        self._relays: set[Relay] = set()

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

    def end_waiting(self) -> None:
        """No replica is left: those whose answer has not begun are not to wait for one."""
        for relay in [each for each in self._relays if not each.begun]:
            relay.end(UnhealthyError("no replica is running"))

    def end_all(self) -> None:
        """Tell all that wait for the rest of an answer that there will be none."""
        for relay in list(self._relays):
            relay.end(GenerationError("the server stopped"))

    async def _answer(self, scope: Any, body: bytes, send: Any) -> None:
        page = scope["path"] if paths.reads(scope) else None
        if page == paths.METRICS:
            await self._tell_metrics(scope, send)
        elif page in paths.LIVE:
            await self._own.plain(scope, 200, b"text/plain", b"", send)
        elif self.draining and paths.generates(scope):
            await self._own.refuse(scope, ShuttingDownError(), send)
        elif self.draining and page in paths.HEALTH:
            await self._own.refuse(scope, UnhealthyError("the server is shutting down"), send)
        elif not self._replicas.running:
            await self._own.refuse(scope, UnhealthyError("no replica is running"), send)
        elif page in paths.HEALTH:
            await self._tell_health(scope, send)
        else:
            await self._relay(scope, body, send)

    async def _relay(self, scope: Any, body: bytes, send: Any) -> None:
        relay = Relay(self._own, scope, send)
        self._relays.add(relay)
        try:
            await relay.run(self._replicas.send(_call(scope, body)))
        finally:
            self._relays.discard(relay)

    async def _tell_health(self, scope: Any, send: Any) -> None:
        """As the first that is well, without waiting for others; else as any that is not."""
        found: tuple[Head, bytes] | None = None
        async with aclosing(self._replicas.all(_call(scope, b""))) as answers:
            async for found in answers:
                if found[0].status == HTTPStatus.OK:
                    break
        if found is None:
            await self._own.refuse(scope, UnhealthyError("no replica answers"), send)
            return
        head, body = found
        await send({"type": "http.response.start", "status": head.status, "headers": head.headers})
        await send({"type": "http.response.body", "body": body})

    async def _tell_metrics(self, scope: Any, send: Any) -> None:
        texts = await self._replicas.metrics()
        text = merged({**dict(sorted(texts.items())), "front": self._metrics.render()}).encode()
        await self._own.plain(scope, 200, CONTENT_TYPE.encode(), text, send)


def _call(scope: Any, body: bytes) -> Call:
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return Call(
        method=scope["method"],
        target=(scope["raw_path"] + query).decode("latin-1"),
        headers=[*passed_on(scope["headers"], b"content-length", b"expect", _ID), (_ID, known_of(scope).id.encode())],
        body=body,
        keys=prompt.keys(body) if paths.generates(scope) else [],
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
