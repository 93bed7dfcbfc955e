"""Chat templates as programs: the Jinja of transformers, and how its template wants conversations.

A template is a foreign program: it runs sandboxed, without access to anything but the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tgi_server.errors import ConfigError, TemplateError
from tgi_server.router.chat.contents import Turn
from tgi_server.router.chat.dialect import Dialect


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's words for training; here it is only its content."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Program:
    """A compiled template.

    Attributes:
        knows_tools: it shows tools by itself.
        dialect: how it wants conversations.

    Raises:
        ConfigError: the text is not a valid template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = _environment()
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"line {error.lineno} of the chat template: {error.message}") from None
        self._special_tokens = special_tokens
        self.knows_tools = "tools" in meta.find_undeclared_variables(tree)
        self.dialect = Dialect.of([node.value for node in tree.find_all(nodes.Const)], self._attempt)

    def render(self, turns: Sequence[Turn], variables: Mapping[str, Any]) -> str:
        """What the template makes of a conversation and more `variables`.

        Raises:
            TemplateError: it refused the conversation or failed, with its own message.
        """
        known = {"documents": None, "tools": None, **self._special_tokens, **variables}
        try:
            return self._template.render(known, messages=turns)
        except Exception as error:  # whatever a foreign template runs into is an answer to the client, not a defect
            raise TemplateError(str(error) or type(error).__name__) from None

    def _attempt(self, turns: Sequence[Turn]) -> str | None:
        try:
            return self.render(turns, {"add_generation_prompt": True})
        except TemplateError:
            return None


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    helpers: dict[str, Callable[..., Any]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals.update(helpers)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as transformers has it for templates: Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
