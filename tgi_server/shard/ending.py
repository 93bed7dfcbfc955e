"""How a text that follows a grammar could be ended with few tokens.

There is no search: in every state the token that looks most like an ending is taken, which closes JSON in about as few
tokens as possible. For a grammar where that leads nowhere, an unbounded repetition of letters say, no ending is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]

LONGEST = 512
"""Tokens after which an ending is given up."""
FREE_TEXT = (b"q", b"Z", b"%")
"""Where all of these may come next, the text is inside a string and brackets are but letters."""


class Ending:
    """Endings over a vocabulary, whose tokens are `texts` (bytes, empty for special ones); `eos` ends a text."""

    def __init__(self, texts: Sequence[bytes], eos: int) -> None:
        self._eos = eos
        self._outside = np.array([_rank_outside(text) for text in texts], np.int16)
        self._inside = np.array([_rank_inside(text) for text in texts], np.int16)
        self._probes = [texts.index(probe) for probe in FREE_TEXT if probe in texts]

    def find(self, matcher: Any, limit: int) -> list[int] | None:
        """Tokens that end the text of a llguidance matcher, the end-of-sequence token last.

        None when none are found, or more than `limit` without that last one.
        """
        state, tokens = matcher.deep_copy(), list[int]()
        while not state.is_accepting():
            forced = state.compute_ff_tokens() or [self._best(state)]
            tokens += forced
            if len(tokens) > min(limit, LONGEST) or not state.consume_tokens(forced):
                return None
        return [*tokens, self._eos]

    @staticmethod
    def fits(matcher: Any, tokens: Sequence[int]) -> bool:
        """Whether `tokens`, an ending found earlier, also ends the text now; that is cheaper than to find another."""
        state = matcher.deep_copy()
        return state.try_consume_tokens(list(tokens[:-1])) == len(tokens) - 1 and bool(state.is_accepting())

    def _best(self, state: Any) -> int:
        mask = np.frombuffer(state.compute_bitmask(), np.uint8)
        allowed: Bits = np.unpackbits(mask, count=len(self._outside), bitorder="little").view(np.bool_)
        ranks = self._inside if self._probes and allowed[self._probes].all() else self._outside
        return int(np.where(allowed, ranks, -1).argmax())


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
