"""Requests that find no place are refused before the framework hears of them, at a fifth of the cost: a crowd that is
turned away must not slow down those who are served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from quart import Response
from quart.utils import encode_headers

from tgi_server.errors import OverloadedError, TgiError
from tgi_server.router.http.body import check_head
from tgi_server.router.http.calls import Calls
from tgi_server.router.http.identity import known_of
from tgi_server.router.http.keys import Keys
from tgi_server.router.http.openapi.operations import REQUEST_ID
from tgi_server.router.http.stream import Asgi
from tgi_server.router.http.wire import Body, BodyType, parse
from tgi_server.telemetry.metrics import Metrics


def _streamed(body: Body) -> bool:
    """As most APIs say it."""
    return bool(getattr(body, "stream", None))


@dataclass(frozen=True, slots=True)
class Refusable(Generic[BodyType]):
    """A route that generates, as far as it takes to refuse a request: the parts that its handler is made of, too.

    Attributes:
        body: what it reads.
        texts: the rules that come before places are taken, and how many it asks for. Raises TgiError.
        answer: an error in the words of its API, to the request of that id.
        streamed: whether it asks for a stream.
        parameters: what of it is told in the log.
    """

    body: type[BodyType]
    texts: Callable[[BodyType], int]
    answer: Callable[[BodyType, TgiError, str], Awaitable[Response]]
    streamed: Callable[[BodyType], bool] = _streamed
    parameters: Callable[[BodyType], Body] = lambda body: body


class Refusals:
    """ASGI middleware: while all places are taken, it answers what would get none. All else goes to `app`, and so does
    whatever is wrong with a request in another way, which is told first.

    Args:
        routes: by path.
        keys: of those who may call.
        longest: bytes of a body that is read.
    """

    def __init__(
        self, app: Asgi, routes: Mapping[str, Refusable[Any]], calls: Calls, keys: Keys, metrics: Metrics, longest: int
    ) -> None:
        self._app = app
        self._routes = routes
        self._calls = calls
        self._keys = keys
        self._metrics = metrics
        self._longest = longest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection or request, as ASGI has it."""
        if not self._calls.engine.full or scope["type"] != "http" or not self._may_refuse(scope):
            await self._app(scope, receive, send)
            return
        about, messages = known_of(scope), await _until_end(receive)
        response = await self._refusal(scope, messages, about.id)
        if response is None:
            await self._app(scope, _again(messages, receive), send)
            return
        response.headers[REQUEST_ID] = about.id
        self._metrics.counter("tgi_http_responses", route=scope["path"], status=str(response.status_code))
        await _send(response, send)

    def _may_refuse(self, scope: Any) -> bool:
        """Whether its head has nothing in it to refuse it for."""
        if scope["method"] != "POST" or scope["path"] not in self._routes:
            return False
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        return length.isdigit() and int(length) <= self._longest and self._keys.sent_in(scope["headers"])

    async def _refusal(self, scope: Any, messages: Sequence[Any], id: str) -> Response | None:
        """The answer to a request, None if others have to say what it gets."""
        route = self._routes[scope["path"]]
        headers = {name.decode("latin1"): value.decode("latin1") for name, value in reversed(scope["headers"])}
        try:
            data = b"".join(message["body"] for message in messages)
            body = parse(route.body, data, check_head(headers))
            route.texts(body)
        except (TgiError, KeyError):  # KeyError: the client has left
            return None
        if not self._calls.engine.full:  # a place got free while it arrived
            return None
        error = OverloadedError()
        origin = self._calls.origin_of(scope, scope["path"], route.streamed(body))
        self._calls.refuse(error, route.parameters(body), origin)
        return await route.answer(body, error, id)


async def _until_end(receive: Any) -> list[Any]:
    """The messages of a request, until it has arrived or its client has left."""
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _again(messages: list[Any], receive: Any) -> Any:
    """A `receive` that has these messages once more, before all others."""
    left = iter(messages)

    async def received() -> Any:
        message = next(left, None)
        return await receive() if message is None else message

    return received


async def _send(response: Response, send: Any) -> None:
    headers = encode_headers(response.headers)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async with response.response as chunks:
        await send({"type": "http.response.body", "body": b"".join([chunk async for chunk in chunks])})
