"""Chat templates: where a model's template comes from, and rendering a conversation with it.

A template is a foreign program: it runs sandboxed, without access to anything but the conversation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tgi_server.errors import ConfigError, TemplateError
from tgi_server.router.chat.messages import Message, Tool
from tgi_server.router.chat.tool_prompts import Turn, definition, explained, turn_of
from tgi_server.router.chat.tools import format_of

logger = logging.getLogger(__name__)

TEMPLATE_FILE = "chat_template.jinja"
TOOL_TEMPLATE_FILE = "additional_chat_templates/tool_use.jinja"
CONFIG_FILE = "tokenizer_config.json"


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's words for training; here it is only its content."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled chat template with the special tokens it may name.

    Args:
        source: the Jinja text.
        special_tokens: token texts by variable name (`bos_token`, `eos_token`, …).
        tool_source: the Jinja text for conversations with tools, where the model has one of its own.

    Attributes:
        tool_format: how the model writes calls.

    Raises:
        ConfigError: a text is not a valid template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], tool_source: str | None = None) -> None:
        self._special_tokens = {"bos_token": "", "eos_token": "", **special_tokens}
        self._template = _compiled(source)
        for_tools = source if tool_source is None else tool_source
        self._tool_template = self._template if tool_source is None else _compiled(for_tools)
        self._knows_tools = "tools" in meta.find_undeclared_variables(_environment().parse(for_tools))
        self.tool_format = format_of(for_tools)

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The prompt of a conversation, up to where the assistant answers.

        Raises:
            ValidationError: the arguments of an earlier call are not a JSON object.
            TemplateError: the template refused the conversation or failed, with its own message.
        """
        turns = [turn_of(message, index) for index, message in enumerate(messages)]
        if not self._knows_tools:
            turns = explained(turns, tools, self.tool_format)
        known = [definition(tool) for tool in tools] if tools and self._knows_tools else None
        return self._rendered(self._tool_template if tools else self._template, turns, known)

    def _rendered(self, template: jinja2.Template, turns: Sequence[Turn], tools: Sequence[Any] | None) -> str:
        try:
            return template.render(
                messages=turns, tools=tools, documents=None, add_generation_prompt=True, **self._special_tokens
            )
        except Exception as error:  # whatever a foreign template runs into is an answer to the client, not a defect
            raise TemplateError(str(error) or type(error).__name__) from None


def find_template(model_dir: Path, tokenizer_config_path: str | None) -> ChatTemplate | None:
    """The template of a model (decision D17), None when it has none that works; a log line says which.

    Raises:
        ConfigError: the file named by the operator is missing, broken or holds no template.
    """
    if tokenizer_config_path is not None:
        return _from_operator(Path(tokenizer_config_path))
    config_path = model_dir / CONFIG_FILE
    try:
        config = _read_config(config_path) if config_path.exists() else {}
        path = model_dir / TEMPLATE_FILE
        source, tool_source = _sources(config.get("chat_template"))
        if path.exists():
            source, tool_source = path.read_text(encoding="utf-8"), _text_of(model_dir / TOOL_TEMPLATE_FILE)
        if source is None:
            logger.warning("The model has no chat template: /v1/chat/completions is refused")
            return None
        template = ChatTemplate(source, _special_tokens(config), tool_source)
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        logger.warning("The model's chat template cannot be used, /v1/chat/completions is refused: %s", error)
        return None
    logger.info("Chat template: %s", path if path.exists() else config_path)
    return template


def _from_operator(path: Path) -> ChatTemplate:
    try:
        config = _read_config(path)
        source, tool_source = _sources(config.get("chat_template"))
        if source is None:
            raise ConfigError("it has no chat_template")
        template = ChatTemplate(source, _special_tokens(config), tool_source)
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"tokenizer_config_path={path}: {reason}") from None
    logger.info("Chat template: %s", path)
    return template


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path.name} is not a JSON object")
    return config


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _sources(value: Any) -> tuple[str | None, str | None]:
    """The one template, or those named `default` and `tool_use` in a list of named ones."""
    named = {"default": value}
    if isinstance(value, list):
        named = {str(entry.get("name")): entry.get("template") for entry in value if isinstance(entry, dict)}
    sources = named.get("default"), named.get("tool_use")
    if any(source is not None and not isinstance(source, str) for source in sources):
        raise ConfigError("chat_template is not text")
    return sources


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """All `*_token` entries; each is a string, an object with `content`, or null."""
    tokens: dict[str, str] = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


def _compiled(source: str) -> jinja2.Template:
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"line {error.lineno} of the chat template: {error.message}") from None


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
