"""How answers of the Responses API are made: whole responses and the events of streams."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Literal

from tgi_server.errors import TgiError, ValidationError
from tgi_server.router.chat.conversation import PreparedConversation
from tgi_server.router.chat.items import Happening, Items, Step
from tgi_server.router.http.answering import Making
from tgi_server.router.http.calls import Answer, Call
from tgi_server.router.http.stream import Framing, Json, typed_sse
from tgi_server.router.openai.responses import echo
from tgi_server.router.openai.responses.answers import (
    Completed,
    Created,
    Failed,
    Incomplete,
    IncompleteDetails,
    InProgress,
    InputTokens,
    ItemAdded,
    ItemDone,
    OutputTokens,
    ResponseError,
    ResponseObject,
    ResponseUsage,
)
from tgi_server.router.openai.responses.output import SHAPES, Shape
from tgi_server.router.openai.responses.requests import ResponsesBody
from tgi_server.types import FinishReason, TokenEvent

LOGPROBS = "message.output_text.logprobs"

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponseAnswer(Making):
    """An answer of `/v1/responses`.

    Args:
        model: the name of the model that is served.
    """

    framing = Framing(typed_sse)

    def __init__(self, body: ResponsesBody, model: str) -> None:
        self._body = body
        self._model = model
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._numbers = count()
        tells = bool(body.top_logprobs) or LOGPROBS in (body.include or [])
        self._top = (body.top_logprobs or 0) if tells else None
        self._call: Call
        self._items: Items

    def start(self, call: Call) -> list[Json]:
        """See `Making`: the response without output."""
        assert isinstance(call.prepared, PreparedConversation)
        self._call = call
        self._items = Items(call.prepared.reader())
        begun = self._response("in_progress")
        return [kind(sequence_number=next(self._numbers), response=begun) for kind in (Created, InProgress)]

    def whole(self, answers: Sequence[Answer]) -> ResponseObject:
        """See `Making`."""
        for event in answers[0].events:
            for _ in self._items.steps(event):
                pass
        return self._ended(answers[0].events[-1])

    def chunks(self, index: int, event: TokenEvent) -> Iterator[Json]:
        """See `Making`."""
        for step in self._items.steps(event):
            yield from _EVENTS[step.what](SHAPES[step.item.kind](self._top), step, self._numbers)
        if event.finish:
            ended = self._ended(event)
            kind = Completed if ended.incomplete_details is None else Incomplete
            yield kind(sequence_number=next(self._numbers), response=ended)

    def failed(self, error: TgiError) -> Failed:
        """See `Making`."""
        code: Literal["server_error", "invalid_prompt"]
        code = "invalid_prompt" if isinstance(error, ValidationError) else "server_error"
        told = self._response("failed", error=ResponseError(code, error.public_message()))
        return Failed(sequence_number=next(self._numbers), response=told)

    def _ended(self, event: TokenEvent) -> ResponseObject:
        """The response with its last token."""
        assert event.finish is not None
        cut = event.finish.reason is FinishReason.LENGTH
        return self._response(
            "incomplete" if cut else "completed",
            incomplete_details=IncompleteDetails("max_output_tokens") if cut else None,
            completed_at=None if cut else int(time.time()),
            usage=self._usage(event.finish.generated_tokens),
        )

    def _response(self, status: Status, **more: Any) -> ResponseObject:
        ended: dict[str, Any] = {"completed_at": None, "error": None, "incomplete_details": None, "usage": None}
        return ResponseObject(
            id=self._id,
            created_at=self._created,
            status=status,
            model=self._model,
            output=[SHAPES[item.kind](self._top).whole(item) for item in self._items.all],
            **echo.asked(self._body),
            **(ended | more),
        )

    def _usage(self, generated: int) -> ResponseUsage:
        prompt = self._call.prompt_tokens
        return ResponseUsage(
            input_tokens=prompt,
            input_tokens_details=InputTokens(self._call.cached_tokens),
            output_tokens=generated,
            output_tokens_details=OutputTokens(self._items.thinking_tokens),
            total_tokens=prompt + generated,
        )


def _begins(shape: Shape, step: Step, numbers: Iterator[int]) -> Iterator[Json]:
    item = step.item
    yield ItemAdded(sequence_number=next(numbers), output_index=item.index, item=shape.begun(item))
    yield from shape.opening(item, numbers)


def _goes_on(shape: Shape, step: Step, numbers: Iterator[int]) -> Iterator[Json]:
    yield shape.more(step, numbers)


def _ends(shape: Shape, step: Step, numbers: Iterator[int]) -> Iterator[Json]:
    item = step.item
    yield from shape.closing(item, numbers)
    yield ItemDone(sequence_number=next(numbers), output_index=item.index, item=shape.whole(item))


_EVENTS: Mapping[Happening, Callable[[Shape, Step, Iterator[int]], Iterator[Json]]] = {
    Happening.BEGINS: _begins,
    Happening.GOES_ON: _goes_on,
    Happening.ENDS: _ends,
}
