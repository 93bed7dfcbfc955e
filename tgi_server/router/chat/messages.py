"""Conversations and the functions that may be called in them, as clients of the OpenAI API write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from tgi_server.errors import ValidationError


class ContentPart(Struct, frozen=True):
    """A piece of what a message says. Only texts can be read, and refusals, which are texts of the assistant's."""

    text: str | None = None
    """Of a part of the type `text`."""
    type: str = "text"
    """`text` or `refusal`. Others, such as `image_url`, are refused: models read nothing but text."""
    refusal: str | None = None
    """Of a part of the type `refusal`."""


class FunctionCall(Struct, frozen=True):
    """Which function is called; the arguments are a JSON object, or its text."""

    name: str
    arguments: str | dict[str, Any] = "{}"
    """A JSON object, or its text."""


class ToolCall(Struct, frozen=True):
    """A call that the assistant made earlier."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"


class Message(Struct, frozen=True):
    """One turn of a conversation."""

    role: str
    """Such as `system`, `user`, `assistant` or `tool`. `developer` is `system` where the model's chat template does not
    know it, `function` is `tool`."""
    content: str | list[ContentPart] | None = None
    """A text, or a list of texts. A message without it needs `tool_calls`, `function_call` or `refusal`."""
    name: str | None = None
    """Of who speaks, for chat templates that use it."""
    tool_calls: list[ToolCall] | None = None
    """What the assistant called."""
    tool_call_id: str | None = None
    """The call that this message answers."""
    function_call: FunctionCall | None = None
    """What the assistant called, as it was told before there were `tool_calls`."""
    refusal: str | None = None
    """What the assistant said instead of a content."""
    reasoning_content: str | None = None
    """What the assistant thought before it said this, for chat templates that use it."""
    reasoning: str | None = None
    """Another name of `reasoning_content`."""

    @property
    def calls(self) -> Sequence[ToolCall]:
        """What the assistant called, told in either way."""
        return self.tool_calls or ([ToolCall(self.function_call)] if self.function_call else [])


class Function(Struct, frozen=True, omit_defaults=True):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    """What the function does, for the model."""
    parameters: dict[str, Any] | None = None
    """The JSON schema of the arguments. A function without it takes none: `{}`."""
    strict: bool | None = None
    """Refuse a schema that cannot be followed as a whole. If it is not `true`, what cannot be followed is left out."""

    def __post_init__(self) -> None:
        if self.name.endswith("\n"):  # which `$` lets pass
            raise ValueError("a line break in the name of a function")
        kind = (self.parameters or {}).get("type") or "object"
        if kind != "object" and not (isinstance(kind, list) and "object" in kind):
            raise ValueError("the arguments of a function are an object")


class Tool(Struct, frozen=True):
    """Something the model may use."""

    function: Function
    type: Literal["function"] = "function"


def tool_of(function: dict[str, Any], param: str) -> Tool:
    """The tool of a function, whose fields are called as in `Function`; `param` is where an API has it.

    Raises:
        ValidationError: the function has another shape.
    """
    try:
        return msgspec.convert({"function": function}, Tool)
    except msgspec.ValidationError as error:
        message = f"`{param}`: {str(error).partition(' - at ')[0]}"
        raise ValidationError(message, param, logged=f"`{param}`: not as expected") from None


class FunctionName(Struct, frozen=True):
    """The name of a function."""

    name: str


class NamedTool(Struct, frozen=True):
    """One of the tools."""

    function: FunctionName | None = None
    """The function."""
    type: str = "function"
    """There are no tools but functions."""
    name: str | None = None
    """The same as `function.name`, as in OpenAI's Responses API."""

    @property
    def called(self) -> str | None:
        """The name of the function, given in either way."""
        return self.name if self.function is None else self.function.name


class AllowedTools(Struct, frozen=True):
    """Tools that may be used, of those there are."""

    tools: list[NamedTool]
    """Those that may be used."""
    mode: Literal["auto", "required"] = "auto"
    """Whether one of them has to be used."""


class ToolChoice(NamedTool, frozen=True):
    """The tool that has to be used, or (of the type `allowed_tools`) those that may be used."""

    allowed_tools: AllowedTools | None = None
    """Of the type `allowed_tools`."""
    tools: list[NamedTool] | None = None
    """The same as `allowed_tools.tools`, as in OpenAI's Responses API."""
    mode: Literal["auto", "required"] = "auto"
    """The same as `allowed_tools.mode`, as in OpenAI's Responses API."""
