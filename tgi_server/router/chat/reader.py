"""An answer of the assistant, taken apart while it is written: thoughts, text and function calls."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tgi_server.engine.thoughts import Thought, ThoughtReader, overlap
from tgi_server.types import Mark, Token, TokenEvent

_HEAD = re.compile(r'\{"name": "([\w.-]+)", "(?:arguments|parameters)": ')


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of call number `index`: its beginning, which has `id` and `name`, or some of its arguments' text."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


Part = str | CallPart | Thought
"""A piece of an answer: text for the reader, or of a call, or of what was thought before."""


def _call_id() -> str:
    """A new name for a call: nine letters and digits, as the chat templates of Mistral demand it."""
    return uuid.uuid4().hex[:9]


class AnswerReader:
    """Turns the tokens of an answer into its pieces, the same for answers that are streamed and for whole ones.

    White space with nothing else before a call is no content.

    Args:
        calls: tells calls from text, None where the answer holds no calls.
        thoughts: tells thoughts from what comes after them, None where the answer holds no thoughts.
    """

    def __init__(self, calls: CallReader | None, thoughts: ThoughtReader | None = None) -> None:
        self._calls = calls
        self._thoughts = thoughts
        self._begun = False
        self._blank = ""  # what there is so far, while it is white space

    @property
    def called(self) -> bool:
        """A call has begun."""
        return self._calls is not None and self._calls.called

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens so far came before text and calls: thoughts, and the marks around them."""
        return 0 if self._thoughts is None else self._thoughts.tokens

    def parts(self, event: TokenEvent) -> list[Part]:
        """What a token adds; special ones have no text, but one may begin calls, or thoughts, or end them."""
        pieces: list[Thought | Token] = [event.token]
        if self._thoughts is not None:
            pieces = self._thoughts.read(event.token) + (self._thoughts.end() if event.finish else [])
        parts = [part for piece in pieces for part in self._taken(piece)]
        return parts + self._end() if event.finish else parts

    def _taken(self, piece: Thought | Token) -> list[Part]:
        if isinstance(piece, Thought):
            return [piece]
        if self._calls is None:
            return ["" if piece.special else piece.text]
        return self._shown(self._calls.special(piece.text) if piece.special else self._calls.feed(piece.text))

    def _end(self) -> list[Part]:
        """What was held back."""
        if self._calls is None:
            return []
        return self._shown(self._calls.end()) + ([self._blank] if self._blank else [])

    def _shown(self, parts: Sequence[Part]) -> list[Part]:
        """`parts` without the white space that may be all there is before a call."""
        shown: list[Part] = []
        for part in parts:
            if isinstance(part, str):
                part = self._blank + part
                self._begun = self._begun or not part.isspace()
                self._blank = "" if self._begun else part
                if not self._begun:
                    continue
            else:
                self._begun, self._blank = True, ""
            shown.append(part)
        return shown


class CallReader:
    """Takes an answer apart as it is written. What may still become the beginning of a call is held back.

    Args:
        mark: what calls begin at, see `ToolFormat.mark`; None for an answer that is nothing but calls.
    """

    def __init__(self, mark: Mark | None) -> None:
        self._mark = mark
        self._read = self._calls if mark is None else self._plain if mark.special else self._text
        self._buffer = ""
        self._calls_begun = 0
        self._depth = 0
        self._in_string = self._escaped = False

    @property
    def called(self) -> bool:
        """A call has begun."""
        return self._calls_begun > 0

    def feed(self, text: str) -> list[str | CallPart]:
        """The pieces that `text` completes."""
        self._buffer += text
        parts: list[str | CallPart] = []
        while self._buffer:
            reader = self._read
            parts += reader()
            if reader == self._read:
                break
        return parts

    def special(self, token: str) -> list[str | CallPart]:
        """Take a special token, which has no text."""
        if self._mark is not None and self._mark.special and token == self._mark.text:
            self._read = self._calls
        return []

    def end(self) -> list[str | CallPart]:
        """What was held back, once nothing more comes."""
        rest = self._buffer if self._read == self._text else ""
        self._buffer = ""
        return [rest] if rest else []

    def _text(self) -> Iterator[str | CallPart]:
        """Up to where a call begins, or may begin."""
        mark = self._mark
        assert mark is not None
        at = -1 + self._buffer.startswith(mark.text) if mark.first else self._buffer.find(mark.text)
        if at >= 0:
            self._read = self._calls
            text, self._buffer = self._buffer[:at], self._buffer[at:]
        else:
            held = overlap(self._buffer, mark.text)
            if mark.first and held < len(self._buffer):
                self._read, held = self._plain, 0
            cut = len(self._buffer) - held
            text, self._buffer = self._buffer[:cut], self._buffer[cut:]
        if text:
            yield text

    def _plain(self) -> Iterator[str | CallPart]:
        text, self._buffer = self._buffer, ""
        yield text

    def _calls(self) -> Iterator[str | CallPart]:
        """Between calls; only their heads matter."""
        if head := _HEAD.search(self._buffer):
            self._buffer = self._buffer[head.end() :]
            self._read, self._depth = self._arguments, 0
            yield CallPart(self._calls_begun, id=_call_id(), name=head[1])
            self._calls_begun += 1

    def _arguments(self) -> Iterator[str | CallPart]:
        """Up to the end of the JSON object."""
        end = next((at for at, sign in enumerate(self._buffer, 1) if self._closes(sign)), None)
        text, self._buffer = self._buffer[:end], "" if end is None else self._buffer[end:]
        if end is not None:
            self._read = self._calls
        yield CallPart(self._calls_begun - 1, arguments=text)

    def _closes(self, sign: str) -> bool:
        """Follow JSON by one character; whether it closes the outermost object."""
        if self._in_string:
            self._in_string = self._escaped or sign != '"'
            self._escaped = sign == "\\" and not self._escaped
            return False
        self._in_string = sign == '"'
        self._depth += (sign in "{[") - (sign in "}]")
        return sign in "}]" and self._depth == 0
