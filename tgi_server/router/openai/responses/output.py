"""The items of a response: what a text, a thought and a call look like, whole and as events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tgi_server.router.chat.items import Item, Kind, Step
from tgi_server.router.http.stream import Json
from tgi_server.router.http.wire import single
from tgi_server.router.openai.responses.answers import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    OutputTextDelta,
    OutputTextDone,
    PartAdded,
    PartDone,
    ReasoningDelta,
    ReasoningDone,
    ReasoningText,
    TokenLogprob,
    TopLogprob,
)
from tgi_server.types import Token, TokenEvent


class Shape(ABC):
    """How items of one kind are told.

    Args:
        top: how many alternatives are told of each token of a text; None for no log-probabilities at all.
    """

    def __init__(self, top: int | None) -> None:
        self.top = top

    def whole(self, item: Item) -> OutputItem:
        """All of it."""
        return self._told(item, "incomplete" if item.cut else "completed", item.text, item.tokens)

    def begun(self, item: Item) -> OutputItem:
        """Its beginning."""
        return self._told(item, "in_progress", None, ())

    @abstractmethod
    def opening(self, item: Item, numbers: Iterator[int]) -> Iterator[Json]:
        """The events behind that of its beginning."""

    @abstractmethod
    def more(self, step: Step, numbers: Iterator[int]) -> Json:
        """The event for some of its text."""

    @abstractmethod
    def closing(self, item: Item, numbers: Iterator[int]) -> Iterator[Json]:
        """The events before that of its end."""

    @abstractmethod
    def _told(self, item: Item, status: ItemStatus, text: str | None, tokens: Sequence[TokenEvent]) -> OutputItem:
        """It with this text; None before there is any."""


class MessageShape(Shape):
    """A message with one text."""

    def opening(self, item: Item, numbers: Iterator[int]) -> Iterator[Json]:
        """See `Shape`."""
        yield PartAdded(**_place(item, numbers), part=OutputText("", [], []))

    def more(self, step: Step, numbers: Iterator[int]) -> OutputTextDelta:
        """See `Shape`."""
        return OutputTextDelta(**_place(step.item, numbers), delta=step.text, logprobs=self._logprobs(step.tokens))

    def closing(self, item: Item, numbers: Iterator[int]) -> Iterator[Json]:
        """See `Shape`."""
        logprobs = self._logprobs(item.tokens)
        yield OutputTextDone(**_place(item, numbers), text=item.text, logprobs=logprobs)
        yield PartDone(**_place(item, numbers), part=OutputText(item.text, [], logprobs))

    def _told(self, item: Item, status: ItemStatus, text: str | None, tokens: Sequence[TokenEvent]) -> OutputMessage:
        content = [] if text is None else [OutputText(text, [], self._logprobs(tokens))]
        return OutputMessage(id=_id(item), status=status, content=content)

    def _logprobs(self, events: Sequence[TokenEvent]) -> list[TokenLogprob]:
        if self.top is None:
            return []
        return [_logprob(event, self.top) for event in events if not event.token.special]


class ReasoningShape(Shape):
    """What is thought."""

    def opening(self, item: Item, numbers: Iterator[int]) -> Iterator[Json]:
        """See `Shape`."""
        yield PartAdded(**_place(item, numbers), part=ReasoningText(""))

    def more(self, step: Step, numbers: Iterator[int]) -> ReasoningDelta:
        """See `Shape`."""
        return ReasoningDelta(**_place(step.item, numbers), delta=step.text)

    def closing(self, item: Item, numbers: Iterator[int]) -> Iterator[Json]:
        """See `Shape`."""
        yield ReasoningDone(**_place(item, numbers), text=item.text)
        yield PartDone(**_place(item, numbers), part=ReasoningText(item.text))

    def _told(self, item: Item, status: ItemStatus, text: str | None, tokens: Sequence[TokenEvent]) -> OutputReasoning:
        content = [] if text is None else [ReasoningText(text)]
        return OutputReasoning(id=_id(item), status=status, summary=[], content=content)


class CallShape(Shape):
    """A call, which has no parts."""

    def opening(self, item: Item, numbers: Iterator[int]) -> Iterator[Json]:
        """See `Shape`."""
        return iter(())

    def more(self, step: Step, numbers: Iterator[int]) -> ArgumentsDelta:
        """See `Shape`."""
        return ArgumentsDelta(**_place(step.item, numbers), delta=step.text)

    def closing(self, item: Item, numbers: Iterator[int]) -> Iterator[Json]:
        """See `Shape`."""
        yield ArgumentsDone(**_place(item, numbers), name=item.name, arguments=item.text)

    def _told(self, item: Item, status: ItemStatus, text: str | None, tokens: Sequence[TokenEvent]) -> OutputCall:
        return OutputCall(id=_id(item), status=status, call_id=item.call_id, name=item.name, arguments=text or "")


SHAPES: Mapping[Kind, type[Shape]] = {Kind.TEXT: MessageShape, Kind.THOUGHT: ReasoningShape, Kind.CALL: CallShape}
_PREFIXES = {Kind.TEXT: "msg", Kind.THOUGHT: "rs", Kind.CALL: "fc"}


def _id(item: Item) -> str:
    return f"{_PREFIXES[item.kind]}_{item.id}"


def _place(item: Item, numbers: Iterator[int]) -> dict[str, Any]:
    """Which event it is, and what it is about."""
    return {"sequence_number": next(numbers), "output_index": item.index, "item_id": _id(item)}


def _logprob(event: TokenEvent, top: int) -> TokenLogprob:
    alternatives = [TopLogprob(*_told(token)) for token in event.top_tokens[:top]]
    return TokenLogprob(*_told(event.token), alternatives)


def _told(token: Token) -> tuple[str, float | None, list[int]]:
    return token.text, single(token.logprob), list(token.text.encode())
