"""Server-sent events: one write for all tokens that are ready, comments while nothing comes, errors in the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, cast

from msgspec import Struct
from quart import Response, request

from tgi_server.errors import TgiError
from tgi_server.router.http.calls import Call
from tgi_server.router.http.wire import dumps
from tgi_server.types import TokenEvent

KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b":\n\n"
DONE = b"data: [DONE]\n\n"

OPENED = "tgi_server.opened"
"""Key of the connection's scope under which `Closing` keeps what is to be closed."""

Json = Mapping[str, Any] | Struct
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class Closing:
    """ASGI middleware: what a request has opened is closed with it, also if its answer was never begun.

    A client may go away when the answer is made and not yet taken up, and then nobody else would close it.
    """

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection or request, as ASGI has it."""
        async with AsyncExitStack() as opened:
            scope[OPENED] = opened
            await self._app(scope, receive, send)


def close_with_request(chunks: AsyncGenerator[bytes, None]) -> None:
    """Close a generator that has been started when the current request is over, whatever becomes of it."""
    opened: AsyncExitStack = cast(dict[str, Any], request.scope)[OPENED]
    opened.push_async_callback(chunks.aclose)


def sse(data: Json) -> bytes:
    """One event."""
    return b"data: %b\n\n" % dumps(data)


def typed_sse(data: Json) -> bytes:
    """One event that is called what its `type` says: a struct with such a tag."""
    assert isinstance(data, Struct)
    return b"event: %b\n%b" % (str(data.__struct_config__.tag).encode(), sse(data))


@dataclass(frozen=True, slots=True)
class Framing:
    """How an API writes its streams.

    Attributes:
        event: writes one event.
        silence: is written while nothing comes.
        end: is written behind the last event.
    """

    event: Callable[[Json], bytes] = sse
    silence: bytes = KEEP_ALIVE
    end: bytes = b""


PLAIN = Framing()


async def token_chunks(
    opening: AbstractAsyncContextManager[Call],
    render: Callable[[int, TokenEvent], Iterable[Json]],
    on_start: Callable[[Call], Iterable[Json]] = lambda call: (),
    keep_alive: float = KEEP_ALIVE_SECONDS,
    framing: Framing = PLAIN,
) -> AsyncGenerator[bytes, None]:
    """The events of a generation as text to write, behind those that `on_start` has for an admitted request.

    The first item is empty and comes once the request is admitted, so that who takes it before answering can still
    answer with an error status. Closing the generator ends the request. `keep_alive` is in seconds.

    Raises:
        TgiError: whatever stopped the request.
    """
    async with opening as call:
        first = b"".join(map(framing.event, on_start(call)))
        yield b""
        if first:
            yield first
        while call.finish is None:
            try:
                async with asyncio.timeout(keep_alive):
                    ready = await call.drain()
            except TimeoutError:
                yield framing.silence
                continue
            told = [data for index, events in ready for event in events for data in render(index, event)]
            yield b"".join(map(framing.event, told))


async def complete(
    chunks: AsyncGenerator[bytes, None],
    render_error: Callable[[TgiError], Json],
    closing: Callable[[], Json | None] = lambda: None,
    framing: Framing = PLAIN,
) -> AsyncGenerator[bytes, None]:
    """A whole event stream: `chunks`, then the `closing` event if there is one, or an error event, then the end."""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                if chunk:
                    yield chunk
            last = closing()
            if last is not None:
                yield framing.event(last)
        except TgiError as error:
            yield framing.event(render_error(error))
    if framing.end:
        yield framing.end


def event_stream(chunks: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> Response:
    """The response that carries an event stream; it has no time limit."""
    response = Response(chunks, content_type="text/event-stream", headers=dict(headers))
    response.headers["cache-control"] = "no-cache"
    response.headers["x-accel-buffering"] = "no"
    return response
