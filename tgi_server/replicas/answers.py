"""What the front says itself, in the words of the API that was asked, and counted as a server counts it."""

from __future__ import annotations

from typing import Any

from tgi_server.errors import TgiError
from tgi_server.replicas import paths
from tgi_server.replicas.call import Head
from tgi_server.router.anthropic import errors as anthropic
from tgi_server.router.http.errors import error_body
from tgi_server.router.http.identity import known_of
from tgi_server.router.http.openapi.operations import REQUEST_ID
from tgi_server.router.http.wire import dumps
from tgi_server.router.openai import errors as openai
from tgi_server.telemetry.metrics import Metrics

_EVENTS = b"text/event-stream"


class Answers:
    """The front's own answers.

    Args:
        metrics: of the front's process.
        chat: whether `/invocations` speaks the OpenAI API (`messages_api_enabled`).
    """

    def __init__(self, metrics: Metrics, chat: bool) -> None:
        self._metrics = metrics
        self._openai = ("/v1/", paths.INVOCATIONS) if chat else ("/v1/",)
        for label in ("generation", "overloaded"):  # so that the first one is seen to be one more
            metrics.counter("tgi_request_failure", 0, err=label)

    async def plain(self, scope: Any, status: int, content_type: bytes, body: bytes, send: Any) -> None:
        """A whole answer."""
        headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
        if not paths.of_operators(scope):
            headers.append((REQUEST_ID.encode(), known_of(scope).id.encode()))
        self._metrics.counter("tgi_http_responses", route=paths.route(scope), status=str(status))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def refuse(self, scope: Any, error: TgiError, send: Any) -> None:
        """An error as the answer."""
        if paths.generates(scope):
            self._metrics.counter("tgi_request_failure", err=error.label)
        status, body = self._told(scope, error)
        await self.plain(scope, status, b"application/json", body, send)

    async def lose(self, scope: Any, head: Head | None, error: TgiError, send: Any) -> None:
        """An error as the answer, or as the last event of one that has begun; any other is cut off in its middle."""
        if head is None:
            await self.refuse(scope, error, send)
            return
        if paths.generates(scope):
            self._metrics.counter("tgi_request_failure", err=error.label)
        if any(key.lower() == b"content-type" and value.startswith(_EVENTS) for key, value in head.headers):
            name = b"event: error\n" if scope["path"].startswith(paths.ANTHROPIC) else b""
            event = name + b"data: " + self._told(scope, error)[1] + b"\n\n"
            await send({"type": "http.response.body", "body": event})
        # else the HTTP server ends the connection, as the answer is not whole

    def _told(self, scope: Any, error: TgiError) -> tuple[int, bytes]:
        path = scope["path"]
        if path.startswith(paths.ANTHROPIC):
            return anthropic.error_status(error), dumps(anthropic.envelope(error, known_of(scope).id))
        if path.startswith(self._openai):
            return openai.error_status(error), dumps(openai.envelope(error))
        return error.status, dumps(error_body(error))
