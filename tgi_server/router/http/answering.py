"""Answering a request that generates, whole or as a stream, in the words of any API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from quart import Response

from tgi_server.errors import TgiError
from tgi_server.router.http.body import answer
from tgi_server.router.http.calls import Answer, Call
from tgi_server.router.http.headers import headers
from tgi_server.router.http.stream import (
    PLAIN,
    Framing,
    Json,
    close_with_request,
    complete,
    event_stream,
    token_chunks,
)
from tgi_server.types import TokenEvent


class Making(ABC):
    """One answer in the making, which is taken whole or event by event.

    Attributes:
        framing: how its events are written.
    """

    framing: ClassVar[Framing] = PLAIN

    @abstractmethod
    def start(self, call: Call) -> Iterable[Json]:
        """The request was admitted; the events of a stream before the first token."""

    @abstractmethod
    def whole(self, answers: Sequence[Answer]) -> Json:
        """All of it."""

    @abstractmethod
    def chunks(self, index: int, event: TokenEvent) -> Iterable[Json]:
        """The events for one token of text `index`."""

    @abstractmethod
    def failed(self, error: TgiError) -> Json:
        """The event that ends a stream which cannot go on."""

    def closing(self) -> Json | None:
        """The event after those of the last token, if there is one."""
        return None


async def respond(
    opening: AbstractAsyncContextManager[Call], making: Making, streamed: bool, compute_type: str
) -> Response:
    """The answer to a request. What is wrong with it is told with a status, also where events were asked for.

    Raises:
        TgiError: the request cannot run, or an answer that is no stream failed.
    """
    if not streamed:
        async with opening as call:
            making.start(call)
            whole = making.whole(await call.answers())
            told = headers(call, compute_type)
        return answer(whole, headers=told)
    chunks = token_chunks(opening, making.chunks, making.start, framing=making.framing)
    close_with_request(chunks)
    await anext(chunks)
    about = {"x-compute-type": compute_type}
    return event_stream(complete(chunks, making.failed, making.closing, making.framing), about)
