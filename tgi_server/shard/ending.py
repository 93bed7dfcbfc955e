"""How a text that follows a grammar could be ended with few tokens.

In every state the token that looks most like an ending is taken, which closes JSON in about as few tokens as possible.
Where that goes round in circles, as in an address whose `@` does not come by itself, tokens with other first letters
are tried in turn, and the circles are cut out of the result. There is no guarantee: where an ending has to be spelled
out, as in `([a-z]+ )*end`, none is found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

Bits = npt.NDArray[np.bool_]

LONGEST = 512
"""Tokens after which an ending is given up."""
MOST_BYTES = 3
"""Of a character, after its first one."""
PATIENCE = 32
"""Times that a forgetful search may meet the same choice."""
FREE_TEXT = (b"q", b"Z", b"%")
"""Where all of these may come next, the text is inside a string and brackets are but letters."""


class Ending:
    """Endings over a vocabulary, whose tokens are `texts` (bytes, empty for special ones); `eos` ends a text."""

    def __init__(self, texts: Sequence[bytes], eos: int) -> None:
        self._eos = eos
        self._outside = np.array([_rank_outside(text) for text in texts], np.int16)
        self._inside = np.array([_rank_inside(text) for text in texts], np.int16)
        self._first = np.array([(text.strip() or b" ")[0] for text in texts], np.uint8)
        self._probes = [texts.index(probe) for probe in FREE_TEXT if probe in texts]

    def find(self, matcher: LLMatcher, close: Sequence[int] = ()) -> list[int] | None:
        """Tokens that end the text of a llguidance matcher, the end-of-sequence token last; None when none are found.

        Circles of one state are looked for first, then larger ones, which repeat in long lists as well. Where the
        tokens `close` lead out of free text, an ending begins with them.
        """
        if close and (ending := self._closed(matcher.deep_copy(), list(close))):
            return ending
        return self._search(matcher, forgetful=True) or self._search(matcher, forgetful=False)

    def _closed(self, state: LLMatcher, close: list[int]) -> list[int] | None:
        """An ending that leaves free text by `close`, maybe after what completes a character; None if there is none."""
        tokens = list[int]()
        while state.validate_tokens(close) < len(close):
            if len(tokens) == MOST_BYTES:
                return None
            tokens.append(self._best(state.compute_bitmask(), []))
            if not state.consume_token(tokens[-1]):
                return None
        state.consume_tokens(close)
        free = self._is_free(unpacked(state.compute_bitmask(), len(self._outside)))
        rest = None if free and not state.is_accepting() else self.find(state)
        return rest and [*tokens, *close, *rest]

    @staticmethod
    def fits(matcher: LLMatcher, tokens: Sequence[int]) -> bool:
        """Whether `tokens`, an ending found earlier, also ends the text now; that is cheaper than to find another."""
        state = matcher.deep_copy()
        return state.try_consume_tokens(list(tokens[:-1])) == len(tokens) - 1 and bool(state.is_accepting())

    def _search(self, matcher: LLMatcher, forgetful: bool) -> list[int] | None:
        """See `find`. A forgetful search knows the letters it tried only as long as it stays where it is."""
        state, tokens, masks, tried = matcher.deep_copy(), list[int](), list[bytes](), dict[bytes, list[int]]()
        while not state.is_accepting():
            if forced := state.compute_ff_tokens():
                masks += [b""] * len(forced)
            else:
                mask = state.compute_bitmask()
                if forgetful and mask not in tried:
                    tried.clear()
                if forgetful and masks.count(mask) > PATIENCE:
                    return None
                forced = [self._best(mask, tried.setdefault(mask, []))]
                masks.append(mask)
            tokens += forced
            if len(tokens) > LONGEST or not state.consume_tokens(forced):
                return None
        return self._without_circles(matcher, [*tokens, self._eos], masks)

    def _best(self, mask: bytes, tried: list[int]) -> int:
        """The most promising of the tokens allowed by `mask` whose first letter is not in `tried`, which it joins."""
        allowed = unpacked(mask, len(self._outside))
        ranks = self._inside if self._is_free(allowed) else self._outside
        fresh = allowed & ~np.isin(self._first, tried) if tried else allowed
        if not fresh.any():
            tried.clear()
            fresh = allowed
        best = int(np.where(fresh, ranks, -1).argmax())
        tried.append(int(self._first[best]))
        return best

    def _is_free(self, allowed: Bits) -> bool:
        """Any text may come next, as inside of a string."""
        return bool(self._probes) and bool(allowed[self._probes].all())

    def _without_circles(self, matcher: LLMatcher, tokens: list[int], masks: list[bytes]) -> list[int]:
        """Leave out what lies between two places with the same choice, if it still ends the text."""
        place = 0
        while place < len(masks):
            again = len(masks) - 1 - masks[::-1].index(masks[place]) if masks[place] else place
            if again > place and self.fits(matcher, shorter := tokens[:place] + tokens[again:]):
                tokens, masks = shorter, masks[:place] + masks[again:]
            place += 1
        return tokens


def unpacked(mask: bytes, size: int) -> Bits:
    """The first `size` bits of a token mask."""
    return np.unpackbits(np.frombuffer(mask, np.uint8), count=size, bitorder="little").view(np.bool_)


def _rank_outside(text: bytes) -> int:
    """Outside of strings: brackets close, then an empty string, commas, other signs, names and digits; openers last."""
    shown = text.strip(b" \t\n\r")
    if not shown:
        return 6 if text else 0
    first, length = shown[:1], min(len(shown), 9)
    if not shown.strip(b'}]"'):
        return (70 if first == b'"' else 100) + length
    if first in b"}]":
        return 60
    if first == b",":
        return 50 + length
    if first.isalnum():
        return 30 + length
    if first == b'"':
        return 20
    return 5 if first in b"-+\\[{" else 40


def _rank_inside(text: bytes) -> int:
    """Inside of a string: its end, and what closes along with it."""
    if text[:1] != b'"':
        return 10 + min(len(text), 9) if text.strip() else 0
    return 100 + min(len(text), 9) if not text.strip(b'}]"') else 20
