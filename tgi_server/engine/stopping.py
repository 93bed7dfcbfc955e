"""Finds stop sequences in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from tgi_server.types import Mark


class StopMatcher:
    """Several stop sequences at once, wherever they begin and end, up to a mark if there is one.

    Cost is proportional to the new text; nothing is searched twice. How the text is cut into pieces makes no
    difference to what is found. A stop sequence that ends within what may still become the mark counts once that is
    decided. Raises ValueError for an empty stop sequence.

    Args:
        mark: its text is looked for; special tokens are told, see `close`.

    Attributes:
        matched: the stop sequence that is complete, while there is one.
    """

    def __init__(self, stops: Sequence[str], mark: Mark | None = None) -> None:
        if "" in stops:
            raise ValueError("a stop sequence must not be empty")
        self._stops = [_Pattern(stop) for stop in stops]
        self._mark = _Pattern(mark.text) if mark is not None and stops and not mark.special else None
        self._only_first = mark is not None and mark.first
        self._beginnings = frozenset(pattern.text[0] for pattern in self._patterns)
        self._position = 0
        self.matched: str | None = None
        self._found: tuple[int, int] | None = None  # the first that is complete, while it may be part of the mark

    @property
    def undecided(self) -> int:
        """How many of the last characters may be part of a stop sequence."""
        if self._found is not None:
            return self._position - self._found[0]
        return max((pattern.matched for pattern in self._stops), default=0)

    def feed(self, text: str, last: bool = False) -> tuple[int, int] | None:
        """Where the first stop sequence to be complete begins and ends, as offsets into `text`.

        Both may be negative: in earlier text. Of several that end together the longest counts. `last` is for text that
        nothing comes after.
        """
        start = self._position
        found = self._search(text)
        if found is None and last:
            found = self._found
        return None if found is None else (found[0] - start, found[1] - start)

    def close(self) -> None:
        """What comes now is no content: nothing is a stop sequence any more."""
        self._stops, self._mark, self._found, self._beginnings = [], None, None, frozenset()

    @property
    def _patterns(self) -> list[_Pattern]:
        return self._stops if self._mark is None else [*self._stops, self._mark]

    def _search(self, text: str) -> tuple[int, int] | None:
        if self._beginnings.isdisjoint(text) and not any(pattern.matched for pattern in self._patterns):
            self._position += len(text)
            if text and self._only_first:  # it would have begun here
                self._mark = None
            return None
        for character in text:
            self._position += 1
            longest = max([stop.text for stop in self._stops if stop.advance(character)], key=len, default="")
            if longest and self._found is None:
                self._found, self.matched = (self._position - len(longest), self._position), longest
            content = self._content(character)
            if self._found is not None and self._found[1] <= content:
                return self._found
        return None

    def _content(self, character: str) -> int:
        """Take one character; up to which position there is content for sure."""
        mark = self._mark
        if mark is None:
            return self._position
        if mark.advance(character):
            self.close()
        elif self._only_first and mark.matched < self._position:
            self._mark = None
        else:
            return self._position - mark.matched
        return self._position


class _Pattern:
    """A text that is looked for (Knuth-Morris-Pratt); `matched` characters of it are what was there last."""

    __slots__ = ("_borders", "matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._borders = _borders(text)

    def advance(self, character: str) -> bool:
        """Take one character; whether it completes the text."""
        text, length = self.text, self.matched
        if length == len(text):
            length = self._borders[-1]
        while length and text[length] != character:
            length = self._borders[length - 1]
        if text[length] == character:
            length += 1
        self.matched = length
        return length == len(text)


def _borders(text: str) -> list[int]:
    """For each prefix of `text`, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = borders[length - 1]
        if text[index] == text[length]:
            length += 1
        borders[index] = length
    return borders
