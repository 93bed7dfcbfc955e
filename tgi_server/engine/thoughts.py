"""Taking what a model thinks out of its text, while it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from tgi_server.types import Reasoning, Token

_ANY_SPECIAL = "\udfff"
"""Stands for a special token that is part of no mark. No text holds it, nor the other ones of its kind."""
_SPECIAL = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of what the model thinks, which is no content."""

    text: str


class ThoughtReader:
    """Takes the thoughts out of a text as it is written. What may still become a mark is held back.

    Line breaks beside the marks belong to them, as chat templates have it.

    Args:
        special: texts of the tokenizer's special tokens. What is one of them in a mark is nothing else.

    Attributes:
        tokens: how many tokens came before the content: thoughts, marks, and line breaks beside these.
    """

    def __init__(self, reasoning: Reasoning, special: Collection[str] = ()) -> None:
        marks = reasoning.begin, reasoning.end, reasoning.direct
        known = sorted((token for token in special if any(token in mark for mark in marks)), key=len, reverse=True)
        self._signs = {token: chr(0xD800 + index) for index, token in enumerate(known)}
        begin, self._end, direct = (self._spelled(mark) for mark in marks)
        self._openings = {begin: self._thoughts} | ({direct: self._gap} if direct else {})
        self._read: Callable[[Token], Iterator[Thought | Token]]
        self._read = self._thoughts if reasoning.begun else self._opening
        self._buffer = ""
        self._held: list[Token] = []
        self._shown = False
        self._seen = self.tokens = 0

    @property
    def undecided(self) -> bool:
        """Nothing has been told so far, of tokens that may become thoughts or content."""
        return bool(self._held)

    def read(self, token: Token) -> list[Thought | Token]:
        """The pieces that a token completes: thoughts, and what is left for the content."""
        self._seen += 1
        return list(self._read(token))

    def end(self) -> list[Thought | Token]:
        """What was held back, once nothing more comes."""
        if self._read == self._thoughts:
            return list(self._thought(self._buffer))
        return [*self._held]

    def _opening(self, token: Token) -> Iterator[Thought | Token]:
        """At the beginning, where thoughts may begin."""
        self._held.append(token)
        self._buffer += self._text(token)
        written = self._buffer.lstrip()
        for mark, read in self._openings.items():
            if written.startswith(mark):
                self._read, self._buffer, self._held = read, "", []
                yield from read(replace(token, text=written[len(mark) :], special=False))
                return
        if not any(mark.startswith(written) for mark in self._openings):
            held, self._held, self._read = self._held, [], self._content
            yield from held

    def _thoughts(self, token: Token) -> Iterator[Thought | Token]:
        """Up to the mark that ends them, or may become it."""
        self.tokens = self._seen
        self._buffer += self._text(token)
        thought, mark, rest = self._buffer.partition(self._end)
        if mark:
            self._read, self._buffer = self._gap, ""
            yield from self._thought(thought.rstrip("\n"))
            yield from self._gap(replace(token, text=rest, special=False))
            return
        thought = self._buffer[: len(self._buffer) - overlap(self._buffer, self._end)].rstrip("\n")
        self._buffer = self._buffer[len(thought) :]
        yield from self._thought(thought)

    def _thought(self, text: str) -> Iterator[Thought]:
        text = _SPECIAL.sub("", text)
        text = text if self._shown else text.lstrip("\n")
        if text:
            self._shown = True
            yield Thought(text)

    def _gap(self, token: Token) -> Iterator[Thought | Token]:
        """The line breaks before the content."""
        text = token.text if token.special else token.text.lstrip("\n")
        if text:
            self._read = self._content
            yield replace(token, text=text)
        else:
            self.tokens = self._seen

    def _content(self, token: Token) -> Iterator[Thought | Token]:
        yield token

    def _text(self, token: Token) -> str:
        return self._signs.get(token.text, _ANY_SPECIAL) if token.special else token.text

    def _spelled(self, mark: str) -> str:
        """A mark with the signs of the special tokens in it."""
        for token, sign in self._signs.items():
            mark = mark.replace(token, sign)
        return mark


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a beginning of `mark`."""
    return next((length for length in range(min(len(text), len(mark)), 0, -1) if mark.startswith(text[-length:])), 0)
