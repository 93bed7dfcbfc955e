"""An answer of the assistant as a row of items: thoughts, texts and calls, each of which begins, goes on and ends.

What APIs make of it is the same whether it is streamed or not: both are told step by step.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tgi_server.engine.thoughts import Thought
from tgi_server.router.chat.reader import AnswerReader, CallPart, Part
from tgi_server.types import FinishReason, TokenEvent


class Kind(str, Enum):
    """What an item is."""

    THOUGHT = "thought"
    TEXT = "text"
    CALL = "call"


@dataclass(slots=True)
class Item:
    """Item number `index` of an answer.

    Attributes:
        text: what there is of it so far: the text, what is thought, or the arguments of the call.
        call_id, name: of a call.
        id: another one for any item, without a prefix.
        tokens: those that the text is made of.
        cut: the tokens ran out within it.
    """

    index: int
    kind: Kind
    call_id: str = ""
    name: str = ""
    text: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    tokens: list[TokenEvent] = field(default_factory=list)
    cut: bool = False


class Happening(str, Enum):
    """What happens to an item."""

    BEGINS = "begins"
    GOES_ON = "goes on"
    ENDS = "ends"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens to `item`: with GOES_ON, `text` and its `tokens` are new."""

    what: Happening
    item: Item
    text: str = ""
    tokens: tuple[TokenEvent, ...] = ()


class Items:
    """The items of one answer.

    Args:
        reader: takes the answer apart.
        thoughts: whether what is thought is an item, or left out.

    Attributes:
        all: items so far.
    """

    def __init__(self, reader: AnswerReader, thoughts: bool = True) -> None:
        self._reader = reader
        self._thoughts = thoughts
        self._untold: list[TokenEvent] = []
        self._current: Item | None = None
        self.all: list[Item] = []

    @property
    def called(self) -> bool:
        """A call has begun."""
        return self._reader.called

    @property
    def thinking_tokens(self) -> int:
        """How many tokens so far came before text and calls."""
        return self._reader.reasoning_tokens

    def steps(self, event: TokenEvent) -> Iterator[Step]:
        """What a token brings; the last one ends the last item."""
        thought = self.thinking_tokens
        parts = self._reader.parts(event)
        self._untold = [] if self.thinking_tokens > thought else [*self._untold, event]
        for part in parts:
            kind, text = _kind(part), _text(part)
            if kind is Kind.THOUGHT and not self._thoughts:
                continue
            if isinstance(part, CallPart) and part.id is not None:
                yield from self._begin(Item(len(self.all), kind, part.id, part.name or ""))
            elif text and (self._current is None or self._current.kind is not kind):
                yield from self._begin(Item(len(self.all), kind))
            if text:
                yield self._more(text)
        if event.finish:
            yield from self._end(cut=event.finish.reason is FinishReason.LENGTH)

    def _begin(self, item: Item) -> Iterator[Step]:
        yield from self._end()
        self._current = item
        self.all.append(item)
        yield Step(Happening.BEGINS, item)

    def _more(self, text: str) -> Step:
        item, tokens = self._current, tuple(self._untold)
        assert item is not None
        self._untold = []
        item.text += text
        item.tokens += tokens
        return Step(Happening.GOES_ON, item, text, tokens)

    def _end(self, cut: bool = False) -> Iterator[Step]:
        if self._current is not None:
            self._current.cut = cut
            yield Step(Happening.ENDS, self._current)
        self._current = None


def _kind(part: Part) -> Kind:
    if isinstance(part, str):
        return Kind.TEXT
    return Kind.THOUGHT if isinstance(part, Thought) else Kind.CALL


def _text(part: Part) -> str:
    if isinstance(part, str):
        return part
    return part.text if isinstance(part, Thought) else part.arguments
