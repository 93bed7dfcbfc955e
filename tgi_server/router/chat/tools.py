"""Function calls: how models write them, and the grammar that makes them valid."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llguidance import LLMatcher

from tgi_server.errors import ValidationError
from tgi_server.router.chat.messages import Function, Tool
from tgi_server.router.http import grammars
from tgi_server.router.http.checks import failure
from tgi_server.router.http.schemas import (
    COMPACT,
    FOR_PEOPLE,
    LOOSE,
    LeftOut,
    Patience,
    followable,
    obstacles,
    schema_text,
    trouble,
)
from tgi_server.types import Mark

logger = logging.getLogger(__name__)

_DECLARING = FOR_PEOPLE | {"type", "properties", "required", "$defs", "definitions", "$schema"}
"""Keywords that say no more of an object than what its members are."""


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
        ValidationError: the schema of the answer cannot be followed, or not beside calls; or that of a strict function.
    """
    if schema is not None and not required and not format.begin:
        raise ValidationError("`tools` and a JSON answer cannot be told apart as this model writes calls", "tools")
    answer, functions = _Answer(format, required, parallel), [_signature(tool.function) for tool in tools]
    if answer.failure(functions, schema) is not None:
        functions = _followed(functions)
        schema = None if schema is None else grammars.strictly(schema, "response_format")
        if reason := answer.failure(functions, schema):
            fault = "`tools` cannot be followed together"
            raise ValidationError(f"{fault}: {reason}", "tools", logged=fault)
    return LLMatcher.grammar_from_lark(answer.rules(functions, schema, special))


@dataclass(frozen=True, slots=True)
class _Signature:
    """A function's name and the schema of its arguments; `options` are llguidance's."""

    name: str
    schema: dict[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an answer with calls looks like, see `grammar`."""

    format: ToolFormat
    required: bool
    parallel: bool

    def failure(self, functions: Sequence[_Signature], schema: Any) -> str | None:
        """Why an answer cannot be followed, by a check that knows no special tokens; None if it can."""
        try:
            return failure(self.rules(functions, schema, {}))
        except ValidationError as error:
            return str(error)

    def rules(self, functions: Sequence[_Signature], schema: Any, special: Mapping[str, int]) -> str:
        """The rules of an answer, as text. Raises ValidationError for a schema that cannot be written down."""
        format, repeat = self.format, self.format.between if self.parallel else None
        rules = [
            f"start: {self._start(special, schema is not None)}",
            f"calls: call{f' ({literal(repeat, special)} call)*' if repeat else ''} {literal(format.end, special)}",
            f"call: {' | '.join(f'call_{index}' for index in range(len(functions)))}",
            *(f"call_{index}: {self._call(function)}" for index, function in enumerate(functions)),
            f"trigger[lazy]: TEXT {literal(format.begin, special)}" if format.begin else "",
            f"answer: %json {schema_text(schema, 'response_format', COMPACT)}" if schema is not None else "",
            r"TEXT: /(.|\n)*/",
            r"PLAIN: /\n*([^{\n](.|\n)*)?/",
        ]
        return "\n".join(rules)

    def _start(self, special: Mapping[str, int], schema: bool) -> str:
        format = self.format
        calls = f"{literal(format.begin, special)} calls"
        if self.required:
            return calls
        if schema:
            return f"{calls} | answer"
        if not format.begin:
            return f"{calls} | PLAIN"
        if format.begin.startswith(tuple(special)):
            return f"TEXT {calls} | TEXT"
        return "trigger calls | TEXT"

    def _call(self, function: _Signature) -> str:
        head = f'{{"name": "{function.name}", "{self.format.arguments}": '
        schema = schema_text(function.schema, "tools", function.options)
        return f"{literal(head, {})} %json {schema} {literal('}', {})}"


def _signature(function: Function) -> _Signature:
    """Arguments are an object. Where all that is said of them is what they are called and what each is, there are no
    others."""
    schema = {**(function.parameters or {"properties": {}}), "type": "object"}
    if "properties" in schema and not schema["properties"]:  # which some clients write as null or as a list
        schema["properties"] = {}
    names, needed = schema.get("properties"), schema.get("required")
    if isinstance(names, dict) and schema.keys() <= _DECLARING:
        others = [name for name in needed if name not in [*names]] if isinstance(needed, list) else []
        schema |= {} if others else {"additionalProperties": False}
    return _Signature(function.name, schema, COMPACT if function.strict else LOOSE)


def _followed(functions: Sequence[_Signature]) -> list[_Signature]:
    """The functions with their schemas as far as these can be followed.

    Raises:
        ValidationError: one that has to be followed strictly cannot.
    """
    patience, followed = Patience(), list[_Signature]()
    for function in functions:
        reason = "too much to be followed" if patience.over else trouble(function.schema, function.options)
        if reason is not None and function.options is COMPACT:
            found = obstacles(function.schema, patience, formats=True)[1] or [LeftOut((), reason)]
            message = f"the arguments of `{function.name}` cannot be followed strictly: {grammars.told(found)}"
            raise ValidationError(message, "tools", logged="the arguments of a function cannot be followed strictly")
        if reason is not None:
            schema, left_out = followable(function.schema, patience)
            logger.debug("left out of the arguments of `%s`: %s", function.name, grammars.told(left_out))
            function = replace(function, schema=schema)
        followed.append(function)
    return followed


def literal(text: str, special: Mapping[str, int]) -> str:
    """`text` inside of a grammar; special tokens in it are named by their ids."""
    known = [token for token in special if token in text]
    parts = re.split(f"({'|'.join(map(re.escape, known))})", text) if known else [text]
    return " ".join(f"<[{special[part]}]>" if part in special else json.dumps(part) for part in parts if part)
