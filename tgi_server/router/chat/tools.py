"""Function calls: how models write them, and the grammar that makes them valid."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from tgi_server.errors import ValidationError
from tgi_server.router.chat.messages import Tool
from tgi_server.router.http.grammars import COMPACT, checked, schema_text
from tgi_server.types import Mark


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

    @property
    def head(self) -> str:
        """What a call begins with."""
        return f'{self.begin}{{"name": "'

    def mark(self, special: Collection[str], first: bool = False) -> Mark:
        """What tells calls from the text before them, with a tokenizer whose special tokens are `special`.

        Calls of which nothing else tells are an answer from its first character on, as all are where `first` says so.
        """
        words = self.begin.split()
        if words and words[0] in special:
            return Mark(words[0], special=True)
        return Mark(self.begin or self.head, first=first or not self.begin)


HERMES = ToolFormat("<tool_call>", "<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
"""Hermes, Qwen, and every model whose template knows no tools."""
FORMATS = (
    HERMES,
    ToolFormat("[TOOL_CALLS]", "[TOOL_CALLS] [", ", ", "]"),
    ToolFormat('"parameters": dictionary', "", None, "", "parameters"),
)
"""Those whose models announce calls in chat templates: Hermes, Mistral, Llama 3."""


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
