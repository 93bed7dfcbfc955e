"""What clients of the Anthropic API send."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from tgi_server.errors import TgiError
from tgi_server.router.anthropic.errors import error_status
from tgi_server.router.http.wire import Body, UInt32


class Block(Struct, frozen=True):
    """A piece of what a message says. Which fields it has depends on its type."""

    type: str
    """`text`, `tool_use`, `tool_result`, `thinking` or `redacted_thinking`. Others, such as `image` and `document`, are
    refused: models read nothing but text."""
    text: str | None = None
    """Of a `text`."""
    id: str | None = None
    """Of a `tool_use`: what its result refers to."""
    name: str | None = None
    """Of a `tool_use`: the tool."""
    input: dict[str, Any] | None = None
    """Of a `tool_use`: what the tool was given."""
    tool_use_id: str | None = None
    """Of a `tool_result`: the `id` of the use that it comes of."""
    content: str | list[Block] | None = None
    """Of a `tool_result`: a text, or a list of texts."""
    is_error: bool | None = None
    """Of a `tool_result`: the tool failed, which the model is told by `Error: ` before the text."""
    thinking: str | None = None
    """Of a `thinking`: what the model thought, for chat templates that show it again."""


class Turn(Struct, frozen=True):
    """A message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]
    """A text, or what the message is made of."""


class ToolDefinition(Struct, frozen=True, kw_only=True):
    """A tool that the model may use: a name, and the JSON schema of what it is given."""

    name: str
    type: str | None = None
    """`custom`, or nothing. Tools of Anthropic's own, which run on its servers or are known to its models, are
    refused."""
    description: str | None = None
    """What the tool does, for the model."""
    input_schema: dict[str, Any] | None = None
    """The JSON schema of what the tool is given, an object."""
    strict: bool | None = None
    """As `strict` of a function in the OpenAI API."""


class ToolUseChoice(Struct, frozen=True):
    """Which tools the answer uses."""

    type: Literal["auto", "any", "tool", "none"]
    """`auto`: what the model wants. `any`: one of the tools at least. `tool`: the one with that name. `none`: none."""
    name: str | None = None
    """Of the type `tool`: the tool."""
    disable_parallel_tool_use: bool | None = None
    """One use at most."""


class Thinking(Struct, frozen=True):
    """Whether the model thinks before it answers."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    """`disabled`: no. The others: yes. Chat templates that know the variable `enable_thinking` or `thinking` are
    told so. Of models that think all the same it is left out."""
    display: Literal["summarized", "omitted"] | None = None
    """`omitted`: what the model thinks is left out. It is told as it is otherwise."""


class JsonOutput(Struct, frozen=True):
    """JSON that follows a schema."""

    schema: dict[str, Any]
    """A JSON schema."""
    type: Literal["json_schema"] = "json_schema"


class OutputConfig(Struct, frozen=True):
    """What the answer has to be like."""

    format: JsonOutput | None = None
    """What the text has to look like. Any text if it is not given."""
    effort: str | None = None
    """How much the model thinks, in words that its chat template knows, such as `low` or `high`."""


class ConversationBody(Body, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `/v1/messages/count_tokens`, and what `/v1/messages` shares with it."""

    GUIDES = ("tools", "output_config", "output_format")
    OPERATION = "chat"

    model: str | None = None
    """Any name. The answer is that of the one model that is served."""
    messages: Annotated[list[Turn], Meta(min_length=1)]
    """The conversation so far. Messages of the same role in a row count as one. Where the last one is the assistant's,
    the answer goes on with it."""
    system: str | list[Block] | None = None
    """What the model is told before the conversation: a text, or a list of texts."""
    tools: list[ToolDefinition] | None = None
    """Tools that the model may use."""
    tool_choice: ToolUseChoice | None = None
    """Which of them the answer uses. `auto` if it is not given."""
    output_config: OutputConfig | None = None
    """What the answer has to be like."""
    output_format: JsonOutput | None = None
    """As `output_config.format`, which wins: its older name."""
    thinking: Thinking | None = None
    """Whether the model thinks before it answers. It is the chat template's to decide if it is not given."""
    mcp_servers: Any = None
    """Not served: anything but an empty list is refused."""


class MessagesBody(ConversationBody, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `/v1/messages`."""

    max_tokens: UInt32
    """Above 0. The longest answer, in tokens. Where it is more than what fits behind the conversation, an answer that
    fills the model's context ends with the reason `model_context_window_exceeded`."""
    stop_sequences: list[str] | None = None
    """At most `max_stop_sequences` of `/info` texts that end the answer. They are left out of it."""
    stream: bool | None = None
    """Send the answer piece by piece, as server-sent events. `false` if it is not given."""
    temperature: float | None = None
    """From 0 to 1. 0 takes the likeliest token each time. 1.0 if it is not given."""
    top_p: float | None = None
    """Above 0, at most 1. Choose among the likeliest tokens that have this probability together. 1.0 if it is not
    given."""
    top_k: UInt32 | None = None
    """Choose among so many of the likeliest tokens; 0 stands for all of them, as if it were not given."""

    def status_of(self, error: TgiError) -> int:
        """See `Body`."""
        return error_status(error)
