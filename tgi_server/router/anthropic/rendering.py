"""How answers of the Anthropic API are made: whole messages and the events of streams."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tgi_server.errors import TgiError
from tgi_server.router.anthropic.answers import (
    AnthropicErrorEnvelope,
    AssistantTurn,
    BlockDelta,
    BlockStart,
    BlockStop,
    ContentBlock,
    InputJsonDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    OutputTokens,
    Ping,
    StopDelta,
    StopReason,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)
from tgi_server.router.anthropic.errors import envelope
from tgi_server.router.anthropic.requests import MessagesBody, Thinking
from tgi_server.router.chat.conversation import PreparedConversation
from tgi_server.router.chat.items import Happening, Item, Items, Kind, Step
from tgi_server.router.http.answering import Making
from tgi_server.router.http.calls import Answer, Call
from tgi_server.router.http.stream import Framing, Json, typed_sse
from tgi_server.types import FinishReason, TokenEvent

Delta = ThinkingDelta | TextDelta | InputJsonDelta

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\],]', re.DOTALL)
"""The strings of a JSON text, the last of which may be cut off, and what tells how deep things are in it."""

MOST_DIGITS = 4000
"""Of an integer that is told as it is; a longer one is null."""


class MessageAnswer(Making):
    """An answer of `/v1/messages`.

    Args:
        model: the name of the model that is served.
        request_id: told with errors.
    """

    framing = Framing(typed_sse, silence=typed_sse(Ping()))

    def __init__(self, body: MessagesBody, model: str, request_id: str) -> None:
        self._body = body
        self._model = model
        self._request_id = request_id
        self._id = f"msg_{uuid.uuid4().hex}"
        self._call: Call
        self._items: Items

    def start(self, call: Call) -> list[Json]:
        """See `Making`: a message without content."""
        assert isinstance(call.prepared, PreparedConversation)
        self._call = call
        self._items = Items(call.prepared.reader(), thoughts=_told(self._body.thinking))
        return [MessageStart(self._message([], None, None, 0))]

    def whole(self, answers: Sequence[Answer]) -> AssistantTurn:
        """See `Making`."""
        events = answers[0].events
        for event in events:
            for _ in self._items.steps(event):
                pass
        content = [_BLOCKS[item.kind](item) for item in self._items.all]
        stop = self._stop(events[-1])
        return self._message(content, stop.stop_reason, stop.stop_sequence, answers[0].finish.generated_tokens)

    def chunks(self, index: int, event: TokenEvent) -> Iterator[Json]:
        """See `Making`."""
        for step in self._items.steps(event):
            yield _EVENTS[step.what](step)
        if event.finish:
            yield MessageDelta(self._stop(event), self._usage(event.finish.generated_tokens))
            yield MessageStop()

    def failed(self, error: TgiError) -> AnthropicErrorEnvelope:
        """See `Making`."""
        return envelope(error, self._request_id)

    def _message(
        self, content: list[ContentBlock], reason: StopReason | None, stop_sequence: str | None, generated: int
    ) -> AssistantTurn:
        return AssistantTurn(
            id=self._id,
            model=self._model,
            content=content,
            stop_reason=reason,
            stop_sequence=stop_sequence,
            usage=self._usage(generated),
        )

    def _usage(self, generated: int) -> MessageUsage:
        details = OutputTokens(self._items.thinking_tokens)
        cached = self._call.cached_tokens
        return MessageUsage(
            input_tokens=self._call.prompt_tokens - cached,
            cache_read_input_tokens=cached,
            output_tokens=generated,
            output_tokens_details=details,
        )

    def _stop(self, event: TokenEvent) -> StopDelta:
        """Why the message ends with its last token."""
        finish = event.finish
        assert finish is not None
        if finish.reason is FinishReason.LENGTH:
            cut = finish.generated_tokens < self._body.max_tokens
            return StopDelta("model_context_window_exceeded" if cut else "max_tokens", None)
        if self._items.called:
            return StopDelta("tool_use", None)
        if finish.reason is FinishReason.STOP_SEQUENCE:
            return StopDelta("stop_sequence", finish.stop_sequence)
        return StopDelta("end_turn", None)


def _told(thinking: Thinking | None) -> bool:
    """Whether a client wants to know what a model thinks that does so anyway."""
    return thinking is None or (thinking.type != "disabled" and thinking.display != "omitted")


def given(arguments: str) -> dict[str, Any]:
    """The arguments of a call; of one that was cut off, the members that are complete."""
    depth, complete = 0, None
    for token in _TOKENS.finditer(arguments):
        depth += (token[0] in "{[") - (token[0] in "}]")
        if (token[0] == "," and depth == 1) or (token[0] == "}" and depth == 0):
            complete = token.start()
    if complete is None:
        return {}
    return dict(json.loads(f"{arguments[:complete]}}}", parse_int=_integer, parse_float=_float))


def _integer(text: str) -> int | None:
    """An integer, if Python reads so many digits."""
    return int(text) if len(text) <= MOST_DIGITS else None


def _float(text: str) -> float | None:
    """A number that is finite."""
    return value if math.isfinite(value := float(text)) else None


def _tool_use(item: Item) -> ToolUseBlock:
    return ToolUseBlock(item.call_id, item.name, given(item.text))


_BLOCKS: Mapping[Kind, Callable[[Item], ContentBlock]] = {
    Kind.THOUGHT: lambda item: ThinkingBlock(item.text),
    Kind.TEXT: lambda item: TextBlock(item.text),
    Kind.CALL: _tool_use,
}
_EMPTY: Mapping[Kind, Callable[[Item], ContentBlock]] = {
    Kind.THOUGHT: lambda item: ThinkingBlock(""),
    Kind.TEXT: lambda item: TextBlock(""),
    Kind.CALL: lambda item: ToolUseBlock(item.call_id, item.name, {}),
}
_DELTAS: Mapping[Kind, Callable[[str], Delta]] = {
    Kind.THOUGHT: ThinkingDelta,
    Kind.TEXT: TextDelta,
    Kind.CALL: InputJsonDelta,
}
_EVENTS: Mapping[Happening, Callable[[Step], Json]] = {
    Happening.BEGINS: lambda step: BlockStart(step.item.index, _EMPTY[step.item.kind](step.item)),
    Happening.GOES_ON: lambda step: BlockDelta(step.item.index, _DELTAS[step.item.kind](step.text)),
    Happening.ENDS: lambda step: BlockStop(step.item.index),
}
