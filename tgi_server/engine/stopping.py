"""Finds stop sequences in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Several stop sequences at once, wherever they begin and end (Knuth-Morris-Pratt for each).

    Cost is proportional to the new text; nothing is searched twice. How the text is cut into pieces makes no
    difference to what is found. Raises ValueError for an empty stop sequence.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("a stop sequence must not be empty")
        self._stops = stops
        self._borders = [_borders(stop) for stop in stops]
        self._matched = [0] * len(stops)
        self._beginnings = frozenset(stop[0] for stop in stops)

    @property
    def undecided(self) -> int:
        """How many of the last characters may be the beginning of a stop sequence."""
        return max(self._matched, default=0)

    def feed(self, text: str) -> tuple[int, int] | None:
        """Where the first stop sequence to be complete begins and ends, as offsets into `text`.

        The beginning is negative when it lies in earlier text. Of several that end together the longest counts.
        """
        if not any(self._matched) and self._beginnings.isdisjoint(text):
            return None
        for end, character in enumerate(text, 1):
            longest = self._advance(character)
            if longest:
                return end - longest, end
        return None

    def _advance(self, character: str) -> int:
        """Take one character; the length of the longest stop sequence it completes, or 0."""
        longest = 0
        for index, stop in enumerate(self._stops):
            borders = self._borders[index]
            length = self._matched[index]
            while length and stop[length] != character:
                length = borders[length - 1]
            if stop[length] == character:
                length += 1
            self._matched[index] = length
            if length == len(stop):
                longest = max(longest, length)
        return longest


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
