"""What clients of OpenAI's Responses API get: the shape of every answer and event."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class TopLogprob(Struct, frozen=True):
    """A token that might have stood there."""

    token: str
    logprob: float | None
    bytes: list[int]


class TokenLogprob(Struct, frozen=True):
    """A token of a text, and what might have stood there."""

    token: str
    logprob: float | None
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class OutputText(Struct, frozen=True, tag_field="type", tag="output_text"):
    """What the model says."""

    text: str
    annotations: list[Any]
    """None."""
    logprobs: list[TokenLogprob]
    """None if they were not asked for."""


class ReasoningText(Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """What the model thinks."""

    text: str


class OutputMessage(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A message of the assistant."""

    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputCall(Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """A function that the model wants to be called."""

    id: str
    status: ItemStatus
    call_id: str
    """What the output of the function refers to."""
    name: str
    arguments: str
    """The text of a JSON object."""


class OutputReasoning(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """What the model thinks before it answers."""

    id: str
    status: ItemStatus
    summary: list[Any]
    """None: it is told as it is."""
    content: list[ReasoningText]


OutputItem = OutputReasoning | OutputMessage | OutputCall


class InputTokens(Struct, frozen=True):
    """What was done before of the prompt."""

    cached_tokens: int
    """Tokens that were found in the cache and not computed again."""
    cache_write_tokens: int = 0
    """0: what is kept of a prompt is the server's to decide, and costs nothing."""


class OutputTokens(Struct, frozen=True):
    """What generated tokens were for."""

    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True, kw_only=True):
    """How many tokens a response took."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class ResponseError(Struct, frozen=True):
    """Why there is no whole answer."""

    code: Literal["server_error", "invalid_prompt"]
    message: str


class IncompleteDetails(Struct, frozen=True):
    """Why an answer is not complete."""

    reason: Literal["max_output_tokens"]


class ToldReasoning(Struct, frozen=True):
    """What was asked for as `reasoning`."""

    effort: str | None
    summary: str | None = None


class ToldFormat(Struct, frozen=True, omit_defaults=True):
    """What was asked for as `text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: Any = None
    description: str | None = None
    strict: bool | None = None


class ToldText(Struct, frozen=True):
    """What was asked for as `text`."""

    format: ToldFormat


class ToldTool(Struct, frozen=True, tag_field="type", tag="function"):
    """A function that the model may call."""

    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class ResponseObject(Struct, frozen=True, kw_only=True):
    """A response: the answer, and what was asked for."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    """Seconds since 1970."""
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    model: str
    """The model that is served."""
    output: list[OutputItem]
    usage: ResponseUsage | None
    """`null` until the response is complete."""
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    top_logprobs: int
    text: ToldText
    tools: list[ToldTool]
    tool_choice: Any
    parallel_tool_calls: bool
    reasoning: ToldReasoning
    metadata: dict[str, str]
    store: bool = False
    """`false`: nothing is kept."""
    background: bool = False
    truncation: Literal["disabled"] = "disabled"
    service_tier: Literal["default"] = "default"
    previous_response_id: Any = None


class Numbered(Struct, frozen=True, kw_only=True, tag_field="type"):
    """An event, and its number in the stream."""

    sequence_number: int


class OfResponse(Numbered, frozen=True, kw_only=True):
    """An event about the whole response."""

    response: ResponseObject


class Created(OfResponse, frozen=True, kw_only=True, tag="response.created"):
    """The response begins."""


class InProgress(OfResponse, frozen=True, kw_only=True, tag="response.in_progress"):
    """The response is being made."""


class Completed(OfResponse, frozen=True, kw_only=True, tag="response.completed"):
    """The response is complete."""


class Incomplete(OfResponse, frozen=True, kw_only=True, tag="response.incomplete"):
    """The response was cut off."""


class Failed(OfResponse, frozen=True, kw_only=True, tag="response.failed"):
    """The response cannot go on."""


class OfItem(Numbered, frozen=True, kw_only=True):
    """An event about item number `output_index`."""

    output_index: int


class ItemAdded(OfItem, frozen=True, kw_only=True, tag="response.output_item.added"):
    """An item begins."""

    item: OutputItem


class ItemDone(OfItem, frozen=True, kw_only=True, tag="response.output_item.done"):
    """An item is complete."""

    item: OutputItem


class OfContent(OfItem, frozen=True, kw_only=True):
    """An event about a part of an item."""

    item_id: str
    content_index: int = 0


class PartAdded(OfContent, frozen=True, kw_only=True, tag="response.content_part.added"):
    """A part begins."""

    part: OutputText | ReasoningText


class PartDone(OfContent, frozen=True, kw_only=True, tag="response.content_part.done"):
    """A part is complete."""

    part: OutputText | ReasoningText


class OutputTextDelta(OfContent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    """More of a text."""

    delta: str
    logprobs: list[TokenLogprob]


class OutputTextDone(OfContent, frozen=True, kw_only=True, tag="response.output_text.done"):
    """A text is complete."""

    text: str
    logprobs: list[TokenLogprob]


class ReasoningDelta(OfContent, frozen=True, kw_only=True, tag="response.reasoning_text.delta"):
    """More of what the model thinks."""

    delta: str


class ReasoningDone(OfContent, frozen=True, kw_only=True, tag="response.reasoning_text.done"):
    """What the model thinks is complete."""

    text: str


class ArgumentsDelta(OfItem, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    """More of the arguments of a call."""

    item_id: str
    delta: str


class ArgumentsDone(OfItem, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    """The arguments of a call are complete."""

    item_id: str
    name: str
    arguments: str


EVENTS = (
    Created, InProgress, ItemAdded, PartAdded, OutputTextDelta, OutputTextDone, ReasoningDelta, ReasoningDone, PartDone,
    ArgumentsDelta, ArgumentsDone, ItemDone, Completed, Incomplete, Failed,
)  # fmt: skip
"""The events of a stream."""
