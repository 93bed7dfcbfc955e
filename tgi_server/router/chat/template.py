"""Chat templates: where a model's template comes from, and rendering a conversation with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tgi_server.errors import ConfigError, ValidationError
from tgi_server.router.chat import reasoning
from tgi_server.router.chat.continuing import FinalMessage
from tgi_server.router.chat.messages import Message, Tool
from tgi_server.router.chat.program import Program
from tgi_server.router.chat.tool_prompts import definition, explained, turn_of
from tgi_server.router.chat.tools import format_of

logger = logging.getLogger(__name__)

TEMPLATE_FILE = "chat_template.jinja"
TOOL_TEMPLATE_FILE = "additional_chat_templates/tool_use.jinja"
CONFIG_FILE = "tokenizer_config.json"

RESERVED = frozenset(["messages", "tools", "add_generation_prompt", "continue_final_message"])
"""Variables that are not a client's to set, beside the special tokens: they have fields of their own."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a conversation is rendered.

    Attributes:
        begin_answer: end with what begins a turn of the assistant's.
        continue_final: end within the last message, which is the assistant's and is gone on with.
        variables: more of them, for templates that know them.
    """

    begin_answer: bool = True
    continue_final: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)


class ChatTemplate:
    """A compiled chat template with the special tokens it may name.

    Args:
        source: the Jinja text.
        special_tokens: token texts by variable name (`bos_token`, `eos_token`, …).
        tool_source: the Jinja text for conversations with tools, where the model has one of its own.

    Attributes:
        tool_format: how the model writes calls.
        reasoning_format: how the model marks what it thinks, None where the template knows of no such thing.

    Raises:
        ConfigError: a text is not a valid template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], tool_source: str | None = None) -> None:
        self._special_tokens = {"bos_token": "", "eos_token": "", **special_tokens}
        self._program = Program(source, self._special_tokens)
        self._tool_program = self._program if tool_source is None else Program(tool_source, self._special_tokens)
        self.tool_format = format_of(source if tool_source is None else tool_source)
        self.reasoning_format = reasoning.format_of(source)

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), rendering: Rendering = Rendering()
    ) -> str:
        """The prompt of a conversation.

        Raises:
            ValidationError: a message says no text, the arguments of an earlier call are not a JSON object, a variable
                is not the client's to set, or the last message cannot be gone on with.
            TemplateError: the template refused the conversation or failed, with its own message.
        """
        self._check(rendering.variables)
        program = self._tool_program if tools else self._program
        turns = program.dialect.roles([turn_of(message, index) for index, message in enumerate(messages)])
        final = FinalMessage(turns) if rendering.continue_final else None
        turns = turns if final is None else final.turns
        if not self._tool_program.knows_tools:
            turns = explained(turns, tools, self.tool_format)
        variables = {
            **rendering.variables,
            "tools": [definition(tool) for tool in tools] if tools and program.knows_tools else None,
            "add_generation_prompt": rendering.begin_answer and final is None,
        }
        text = program.render(program.dialect.contents(turns), variables)
        return text if final is None else final.cut(text)

    def _check(self, variables: Mapping[str, Any]) -> None:
        taken = next((name for name in variables if name in RESERVED or name in self._special_tokens), None)
        if taken is not None:
            param = "chat_template_kwargs"
            raise ValidationError(f"`{param}` cannot set `{taken}`, which the server does", param)


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
            logger.info("The model has no chat template: chats, messages and responses are refused")
            return None
        template = ChatTemplate(source, _special_tokens(config), tool_source)
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        logger.warning("The model's chat template cannot be used; chats, messages and responses are refused: %s", error)
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
