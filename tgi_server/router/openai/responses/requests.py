"""What clients of OpenAI's Responses API send."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from tgi_server.errors import TgiError
from tgi_server.router.chat.messages import ToolChoice
from tgi_server.router.http.wire import Body, UInt32
from tgi_server.router.openai.errors import error_status


class InputPart(Struct, frozen=True):
    """A piece of what a message, a result or a thought says."""

    type: str
    """`input_text`, `output_text`, `reasoning_text`, `summary_text`, `text` or `refusal`. Others, such as
    `input_image`, are refused: models read nothing but text."""
    text: str | None = None
    """Of all but a `refusal`."""
    refusal: str | None = None
    """Of a `refusal`: what the assistant said."""


class InputItem(Struct, frozen=True):
    """A turn of a conversation. Which fields it has depends on its type."""

    type: str | None = None
    """`message` (which is what counts if there is a role), `function_call`, `function_call_output` or `reasoning`.
    Others are refused."""
    role: str | None = None
    """Of a `message`: such as `user`, `assistant`, `system` or `developer`."""
    content: str | list[InputPart] | None = None
    """Of a `message`: a text, or a list of texts. Of a `reasoning`: what was thought, for chat templates that show it
    again."""
    call_id: str | None = None
    """Of a call and its output: what they have in common."""
    name: str | None = None
    """Of a `function_call`: the function."""
    arguments: str | None = None
    """Of a `function_call`: the text of a JSON object."""
    output: str | list[InputPart] | None = None
    """Of a `function_call_output`: a text, or a list of texts."""
    summary: list[InputPart] | None = None
    """Of a `reasoning` without a content: what was thought, in short."""


class ResponseTool(Struct, frozen=True):
    """A function that the model may call."""

    type: str
    """`function`. Others, such as `web_search` and `mcp`, are refused."""
    name: str | None = None
    """Of the function."""
    description: str | None = None
    """What the function does, for the model."""
    parameters: dict[str, Any] | None = None
    """The JSON schema of the arguments, an object. No arguments if it is not given."""
    strict: bool | None = None
    """As `strict` of a function of a chat."""


class ResponseFormat(Struct, frozen=True):
    """What a text has to look like."""

    type: Literal["text", "json_object", "json_schema"]
    """Any text, any JSON object, or JSON that follows a schema."""
    schema: Any = None
    """Of a `json_schema`: the JSON schema."""
    name: str | None = None
    """Without effect."""
    description: str | None = None
    """Without effect."""
    strict: bool | None = None
    """As `strict` of a `response_format` of a chat."""


class ResponseText(Struct, frozen=True):
    """What the text of an answer has to be like."""

    format: ResponseFormat | None = None
    """What the text has to look like. Any text if it is not given."""


class ResponseReasoning(Struct, frozen=True):
    """How much the model thinks before it answers."""

    effort: str | None = None
    """As `reasoning_effort` of a chat."""


class ResponsesBody(Body, frozen=True, kw_only=True, omit_defaults=True):
    """Body of `/v1/responses`. The last fields are read to be refused."""

    GUIDES = ("tools", "text")
    OPERATION = "chat"

    model: str | None = None
    """Any name. The answer is that of the one model that is served."""
    input: str | list[InputItem]
    """What the user says, or the conversation so far."""
    instructions: str | None = None
    """What the model is told before the conversation."""
    max_output_tokens: UInt32 | None = None
    """Above 0. The longest answer, in tokens. If it is not given, as many as fit."""
    temperature: float | None = None
    """From 0 to 2. 0 takes the likeliest token each time. 1.0 if it is not given."""
    top_p: float | None = None
    """Above 0, at most 1. Choose among the likeliest tokens that have this probability together. 1.0 if it is not
    given."""
    top_logprobs: UInt32 | None = None
    """Tell the tokens with their log-probabilities, and so many of the likeliest ones at each step. The option
    `max_top_n_tokens` of the server limits it, 5 by default."""
    include: list[str] | None = None
    """`message.output_text.logprobs`: tell the tokens with their log-probabilities. Others have no effect."""
    stream: bool | None = None
    """Send the answer piece by piece, as server-sent events. `false` if it is not given."""
    text: ResponseText | None = None
    """What the text has to be like."""
    tools: list[ResponseTool] | None = None
    """Functions that the model may call."""
    tool_choice: str | ToolChoice | None = None
    """`none`, `auto` (which is what counts if it is not given), `required`, the function that has to be called, or
    those that are allowed."""
    parallel_tool_calls: bool | None = None
    """Whether there may be several calls. `true` if it is not given."""
    reasoning: ResponseReasoning | None = None
    """How much the model thinks before it answers. As the model has it if it is not given."""
    metadata: dict[str, str] | None = None
    """Is told with the answer."""
    background: Any = None
    """Not served: anything but `false` is refused."""
    conversation: Any = None
    """Not served: nothing is kept."""
    moderation: Any = None
    """Not served."""
    previous_response_id: Any = None
    """Not served: nothing is kept."""
    prompt: Any = None
    """Not served: nothing is kept."""

    def status_of(self, error: TgiError) -> int:
        """See `Body`."""
        return error_status(error)
