"""An answer of the assistant as a row of items, texts and calls, each of which begins, goes on and ends.

What APIs make of it is the same whether it is streamed or not: both are told step by step.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tgi_server.router.chat.reader import AnswerReader, Part
from tgi_server.types import TokenEvent


class Kind(str, Enum):
    """What an item is."""

    TEXT = "text"
    CALL = "call"


@dataclass(slots=True)
class Item:
    """Item number `index` of an answer.

    Attributes:
        text: what there is of it so far: the text, or the arguments of the call.
        call_id, name: of a call.
        id: another one for any item, without a prefix.
        tokens: those that the text is made of.
    """

    index: int
    kind: Kind
    call_id: str = ""
    name: str = ""
    text: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    tokens: list[TokenEvent] = field(default_factory=list)


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

    Attributes:
        all: items so far.
    """

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader
        self._untold: list[TokenEvent] = []
        self._current: Item | None = None
        self.all: list[Item] = []

    @property
    def called(self) -> bool:
        """A call has begun."""
        return self._reader.called

    def steps(self, event: TokenEvent) -> Iterator[Step]:
        """What a token brings; the last one ends the last item."""
        self._untold.append(event)
        for part in self._reader.parts(event):
            text = part if isinstance(part, str) else part.arguments
            if not self._belongs(part) and (text or not isinstance(part, str)):
                yield from self._end()
                yield self._begin(part)
            if text:
                yield self._more(text)
        if event.finish:
            yield from self._end()

    def _belongs(self, part: Part) -> bool:
        """Whether the part is one more of the item that has begun."""
        kind = Kind.TEXT if isinstance(part, str) else Kind.CALL
        begins = not isinstance(part, str) and part.id is not None
        return self._current is not None and self._current.kind is kind and not begins

    def _begin(self, part: Part) -> Step:
        if isinstance(part, str):
            item = Item(len(self.all), Kind.TEXT)
        else:
            item = Item(len(self.all), Kind.CALL, part.id or "", part.name or "")
        self._current = item
        self.all.append(item)
        return Step(Happening.BEGINS, item)

    def _more(self, text: str) -> Step:
        item, tokens = self._current, tuple(self._untold)
        assert item is not None
        self._untold = []
        item.text += text
        item.tokens += tokens
        return Step(Happening.GOES_ON, item, text, tokens)

    def _end(self) -> Iterator[Step]:
        if self._current is not None:
            yield Step(Happening.ENDS, self._current)
        self._current = None
