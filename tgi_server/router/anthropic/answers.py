"""What clients of the Anthropic API get: the shape of every answer, event and error."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

ErrorKind = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
]

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class AnthropicError(Struct, frozen=True):
    """What is wrong with a request, or with the server, in Anthropic's words."""

    type: ErrorKind
    message: str
    """What is wrong, for a person."""


class AnthropicErrorEnvelope(Struct, frozen=True, tag_field="type", tag="error"):
    """The body of every error of the Anthropic API, also as an event of a stream."""

    error: AnthropicError
    request_id: str
    """The same as the header `request-id`."""


class ThinkingBlock(Struct, frozen=True, tag_field="type", tag="thinking"):
    """What the model thinks before it answers."""

    thinking: str
    signature: str = ""
    """Empty: nothing is signed."""


class TextBlock(Struct, frozen=True, tag_field="type", tag="text"):
    """What the model says."""

    text: str


class ToolUseBlock(Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A tool that the model wants to be used."""

    id: str
    name: str
    input: dict[str, Any]
    """What the tool is given. Of a call that was cut off, what is complete."""


ContentBlock = ThinkingBlock | TextBlock | ToolUseBlock


class OutputTokens(Struct, frozen=True):
    """What generated tokens were for."""

    thinking_tokens: int
    """What came before the answer: thoughts, and the marks around them."""


class MessageUsage(Struct, frozen=True, kw_only=True):
    """How many tokens a message took."""

    input_tokens: int
    """Of the prompt, without those that were in the cache."""
    cache_creation_input_tokens: int = 0
    """0: what is kept of a prompt is the server's to decide, and costs nothing."""
    cache_read_input_tokens: int = 0
    """Of the prompt, those that were in the cache. In a stream, they are told at its end."""
    output_tokens: int
    output_tokens_details: OutputTokens


class AssistantTurn(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A message of the assistant; at the beginning of a stream, one without content."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    """The model that is served."""
    content: list[ContentBlock]
    stop_reason: StopReason | None
    """`null` at the beginning of a stream."""
    stop_sequence: str | None
    """The stop sequence that ended the text, if one did."""
    usage: MessageUsage


class ThinkingDelta(Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    """More of what the model thinks."""

    thinking: str


class TextDelta(Struct, frozen=True, tag_field="type", tag="text_delta"):
    """More of a text."""

    text: str


class InputJsonDelta(Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    """More of the JSON text of what a tool is given."""

    partial_json: str


class MessageStart(Struct, frozen=True, tag_field="type", tag="message_start"):
    """A message begins."""

    message: AssistantTurn


class BlockStart(Struct, frozen=True, tag_field="type", tag="content_block_start"):
    """Block number `index` begins."""

    index: int
    content_block: ContentBlock


class BlockDelta(Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    """Block number `index` goes on."""

    index: int
    delta: ThinkingDelta | TextDelta | InputJsonDelta


class BlockStop(Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    """Block number `index` is complete."""

    index: int


class StopDelta(Struct, frozen=True):
    """Why a message ends."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Struct, frozen=True, tag_field="type", tag="message_delta"):
    """A message ends, and what it took all together."""

    delta: StopDelta
    usage: MessageUsage


class MessageStop(Struct, frozen=True, tag_field="type", tag="message_stop"):
    """Nothing more comes."""


class Ping(Struct, frozen=True, tag_field="type", tag="ping"):
    """Nothing came for a while."""


EVENTS = (MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop, Ping)
"""The events of a stream, errors aside."""


class TokenCount(Struct, frozen=True):
    """How long a conversation is, in tokens."""

    input_tokens: int
