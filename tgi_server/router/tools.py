"""Function calls: how models write them, the grammar that makes them valid, and reading them while they are written."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from tgi_server.errors import ValidationError
from tgi_server.router.grammars import COMPACT, checked, schema_text
from tgi_server.router.wire import Tool


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family of models writes calls: `begin`, JSON objects with `between` in between, `end`.

    `sign` is what tells a chat template of that family, `arguments` the key of the arguments beside `name`. Several
    calls are possible where there is a `between`.
    """

    sign: str
    begin: str
    between: str | None
    end: str
    arguments: str = "arguments"


HERMES = ToolFormat("<tool_call>", "<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
"""Hermes, Qwen, and every model whose template knows no tools."""

FORMATS = (
    HERMES,
    ToolFormat("[TOOL_CALLS]", "[TOOL_CALLS] [", ", ", "]"),
    ToolFormat('"parameters": dictionary', "", None, "", "parameters"),
)
"""Those whose models announce calls in chat templates: Hermes, Mistral, Llama 3."""

_HEAD = re.compile(r'\{"name": "([\w.-]+)", "(?:arguments|parameters)": ')
_HEAD_START = '{"name": "'


def format_of(template: str) -> ToolFormat:
    """How the model of a chat template writes calls."""
    return next((format for format in FORMATS if format.sign in template), HERMES)


def grammar(
    tools: Sequence[Tool],
    format: ToolFormat,
    special: Mapping[str, int],
    *,
    required: bool,
    parallel: bool,
    schema: Any = None,
) -> str:
    """The grammar of an answer with calls of `tools`.

    Args:
        special: ids of the special tokens, by their text; no other text stands for them.
        required: the answer has to be calls; otherwise it may as well be text, with calls at its end.
        parallel: there may be several calls.
        schema: the JSON schema of an answer that is no call, None for any text.

    Raises:
        ValidationError: a schema cannot be followed, or not beside calls.
    """
    rules = _rules(tools, format, special, required, parallel, schema)
    checked("\n".join(_rules(tools, format, {}, required, parallel, schema)), "tools")  # which knows no special tokens
    return LLMatcher.grammar_from_lark("\n".join(rules))


def _rules(
    tools: Sequence[Tool], format: ToolFormat, special: Mapping[str, int], required: bool, parallel: bool, schema: Any
) -> list[str]:
    repeat = format.between if parallel else None
    return [
        f"start: {_start(format, special, required, schema is not None)}",
        f"calls: call{f' ({_literal(repeat, special)} call)*' if repeat else ''} {_literal(format.end, special)}",
        f"call: {' | '.join(f'call_{index}' for index in range(len(tools)))}",
        *(f"call_{index}: {_call(tool, format)}" for index, tool in enumerate(tools)),
        f"trigger[lazy]: TEXT {_literal(format.begin, special)}" if format.begin else "",
        f"answer: %json {_embedded(schema)}" if schema is not None else "",
        r"TEXT: /(.|\n)*/",
        r"PLAIN: /([^{](.|\n)*)?/",
    ]


def _start(format: ToolFormat, special: Mapping[str, int], required: bool, schema: bool) -> str:
    calls = f"{_literal(format.begin, special)} calls"
    if required:
        return calls
    if not format.begin:
        if schema:
            raise ValidationError("`tools` and a JSON answer cannot be told apart as this model writes calls", "tools")
        return f"{calls} | PLAIN"
    if schema:
        return f"{calls} | answer"
    if format.begin.startswith(tuple(special)):
        return f"TEXT {calls} | TEXT"
    return "trigger calls | TEXT"


def _call(tool: Tool, format: ToolFormat) -> str:
    function = tool.function
    head = f'{{"name": "{function.name}", "{format.arguments}": '
    schema = {"type": "object", **(function.parameters or {})}
    return f"{_literal(head, {})} %json {_embedded(schema)} {_literal('}', {})}"


def _embedded(schema: Any) -> str:
    """A schema as it stands inside of a grammar."""
    return schema_text({**schema, "x-guidance": COMPACT}, "tools")


def _literal(text: str, special: Mapping[str, int]) -> str:
    """`text` inside of a grammar; special tokens in it are named by their ids."""
    known = [token for token in special if token in text]
    parts = re.split(f"({'|'.join(map(re.escape, known))})", text) if known else [text]
    return " ".join(f"<[{special[part]}]>" if part in special else json.dumps(part) for part in parts if part)


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of call number `index`: its beginning, which has `id` and `name`, or some of its arguments' text."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


Part = str | CallPart
"""A piece of an answer: text for the reader, or of a call."""


class CallReader:
    """Takes an answer apart as it is written. What may still become the beginning of a call is held back.

    Args:
        required: the answer is nothing but calls.
        special: texts of the tokenizer's special tokens. Where one of them announces calls, no other text does.
    """

    def __init__(self, format: ToolFormat, required: bool, special: Collection[str] = ()) -> None:
        mark = format.begin.split()[0] if format.begin else None
        self._mark = mark if mark in special else None
        self._begin = format.begin or _HEAD_START
        self._anywhere = bool(format.begin)
        self._read = self._calls if required else self._plain if self._mark else self._text
        self._buffer = ""
        self._calls_begun = 0
        self._depth = 0
        self._in_string = self._escaped = False

    @property
    def called(self) -> bool:
        """A call has begun."""
        return self._calls_begun > 0

    def feed(self, text: str) -> list[Part]:
        """The pieces that `text` completes."""
        self._buffer += text
        parts: list[Part] = []
        while self._buffer:
            reader = self._read
            parts += reader()
            if reader == self._read:
                break
        return parts

    def special(self, token: str) -> list[Part]:
        """Take a special token, which has no text."""
        if token == self._mark:
            self._read = self._calls
        return []

    def end(self) -> list[Part]:
        """What was held back, once nothing more comes."""
        rest = self._buffer if self._read == self._text else ""
        self._buffer = ""
        return [rest] if rest else []

    def _text(self) -> Iterator[Part]:
        """Up to where a call begins, or may begin."""
        at = self._buffer.find(self._begin) if self._anywhere else -1 + self._buffer.startswith(self._begin)
        if at >= 0:
            self._read = self._calls
            text, self._buffer = self._buffer[:at], self._buffer[at:]
        else:
            held = _overlap(self._buffer, self._begin)
            if not self._anywhere and held < len(self._buffer):
                self._read, held = self._plain, 0
            cut = len(self._buffer) - held
            text, self._buffer = self._buffer[:cut], self._buffer[cut:]
        if text:
            yield text

    def _plain(self) -> Iterator[Part]:
        text, self._buffer = self._buffer, ""
        yield text

    def _calls(self) -> Iterator[Part]:
        """Between calls; only their heads matter."""
        if head := _HEAD.search(self._buffer):
            self._buffer = self._buffer[head.end() :]
            self._read, self._depth = self._arguments, 0
            yield CallPart(self._calls_begun, id=f"call_{uuid.uuid4().hex[:24]}", name=head[1])
            self._calls_begun += 1

    def _arguments(self) -> Iterator[Part]:
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


def _overlap(text: str, begin: str) -> int:
    """Length of the longest end of `text` that is a beginning of `begin`."""
    return next((length for length in range(min(len(text), len(begin)), 0, -1) if begin.startswith(text[-length:])), 0)
