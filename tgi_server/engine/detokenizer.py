"""The text of a sequence, token by token: complete characters are given out at once, never parts of one."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from typing import Protocol

from tokenizers import Tokenizer

from tgi_server.engine.pieces import Pieces

CONTEXT = 5
"""Tokens before a text that are decoded along with it: whether its first word has a space before it depends on them."""
MOST_PENDING = 16
"""Tokens that are kept while each ends inside a character; bytes that never make one do not add up any further."""
UNFINISHED = "\ufffd"
"""What a decoder writes for the bytes of an unfinished character, and for bytes that are none."""


class Detokenizer(Protocol):
    """Decodes one sequence. Bytes that make no character become U+FFFD once it is sure that they do not."""

    def push(self, id: int) -> str:
        """The text that token `id` completes."""

    def interrupt(self) -> None:
        """A special token comes, which is no part of the text: an unfinished character before it is none."""


class PieceDetokenizer:
    """Joins pieces.

    Args:
        special: ids that are no part of a text.
        context: the ids before the text, which it continues; a text after nothing but special ones begins anew.
    """

    def __init__(self, pieces: Pieces, special: Collection[int], context: Sequence[int]) -> None:
        self._pieces = pieces
        self._pending = b""
        self._strip = pieces.stripped if all(id in special for id in context) else 0
        for id in context[-CONTEXT:]:  # a prompt may end inside a character, which the text completes
            if id in special:
                self.interrupt()
            else:
                self._join(pieces[id])

    def push(self, id: int) -> str:
        """See `Detokenizer`."""
        piece = self._pieces[id]
        text = piece if not self._pending and isinstance(piece, str) else self._join(piece)
        return self._begin(text) if self._strip and text else text

    def interrupt(self) -> None:
        """See `Detokenizer`."""
        self._pending = b""

    def _join(self, piece: str | bytes) -> str:
        self._pending += piece.encode() if isinstance(piece, str) else piece
        text, used = codecs.utf_8_decode(self._pending, "replace", False)
        self._pending = self._pending[used:]
        return text

    def _begin(self, text: str) -> str:
        """The first text without the spaces that its vocabulary puts before every text."""
        spaces, self._strip = self._strip, 0
        return text[min(spaces, len(text) - len(text.lstrip(" "))) :]


class ContextDetokenizer:
    """Decodes new tokens behind those before them: for decoders that need to see them together. Arguments as above."""

    def __init__(self, tokenizer: Tokenizer, special: Collection[int], context: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._context: list[int]  # decoded before the next tokens, its text has been given out
        self._length: int  # of that text
        self._pending: list[int]  # tokens whose last character is not complete
        self._shown: int  # characters of the pending tokens that have been given out
        last = [id for id in context if id not in special][-CONTEXT:]
        tails = (last[start:] for start in range(len(last)))  # it should not begin within a character
        self._continue(next((tail for tail in tails if UNFINISHED not in self._decode(tail)), last))

    def push(self, id: int) -> str:
        """See `Detokenizer`."""
        self._pending.append(id)
        text = self._decode(self._context + self._pending)[self._length :]
        complete = text if len(self._pending) >= MOST_PENDING else text.rstrip(UNFINISHED)
        new = complete[self._shown :]
        if complete == text:
            self._continue(self._pending)
        else:
            self._shown += len(new)
        return new

    def interrupt(self) -> None:
        """See `Detokenizer`."""
        if self._pending:
            self._continue(self._context + self._pending)

    def _continue(self, context: list[int]) -> None:
        self._context, self._length = context, len(self._decode(context))
        self._pending, self._shown = [], 0

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
