"""From what a client of the Responses API wrote to requests to the engine, or to the first rule it breaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import msgspec
from tokenizers import Tokenizer

from tgi_server.errors import ValidationError
from tgi_server.router.chat.contents import unreadable
from tgi_server.router.chat.conversation import Conversation, prepare
from tgi_server.router.chat.messages import FunctionCall, Message, Tool, ToolCall, tool_of
from tgi_server.router.chat.reasoning import effort_variables
from tgi_server.router.chat.sampling import check_sampling, sampling
from tgi_server.router.chat.template import ChatTemplate, Rendering
from tgi_server.router.chat.tool_choice import usable
from tgi_server.router.http.formats import Format, JsonObjectFormat, JsonSchemaFormat, NamedSchema
from tgi_server.router.http.limits import Limits, Prepared, check_top_n
from tgi_server.router.http.rules import check_above_zero, renamed, require
from tgi_server.router.openai.responses.requests import InputItem, InputPart, ResponsesBody, ResponseTool
from tgi_server.router.openai.responses.unserved import REFUSED
from tgi_server.router.openai.unserved import check_unserved

NAMES = {"messages": "input", "response_format": "text.format", "max_tokens": "max_output_tokens"}
"""What fields are called here, by what they are called in the rules that all APIs share."""

SEPARATOR = "\n"
"""Between what the assistant says or thinks in several items of one turn."""

MOST_SAID = 64
"""Characters of a type that an error repeats."""

_ASSISTANTS = frozenset(["function_call", "reasoning"])
_READABLE = frozenset(["input_text", "output_text", "reasoning_text", "summary_text", "text"])


def response(
    body: ResponsesBody, template: ChatTemplate | None, limits: Limits, tokenizer: Tokenizer, random_seed: int
) -> Prepared:
    """Check, render and tokenise a conversation.

    Raises:
        ValidationError: the first rule the request breaks.
        TemplateError: there is no template, or it refused the conversation.
    """
    with renamed(NAMES):
        return prepare(conversation_of(body, limits, random_seed), template, limits, tokenizer)


def conversation_of(body: ResponsesBody, limits: Limits, random_seed: int) -> Conversation:
    """What a request asks for; `random_seed` is that of the random choices.

    Raises:
        ValidationError: the first rule the request breaks.
    """
    check_unserved(body, REFUSED)
    check_sampling(body.temperature, body.top_p, hottest=2.0)
    check_top_n("top_logprobs", body.top_logprobs or 0, limits)
    check_above_zero("max_output_tokens", body.max_output_tokens)
    tools, required, several = usable([_tool(*each) for each in enumerate(body.tools or [])], body.tool_choice)
    how = sampling(body.temperature, body.top_p, random_seed)
    messages = [*_instructions(body), *_messages(body)]
    require(bool(messages), "`input` is empty", "input")
    return Conversation(
        messages=messages,
        rendering=Rendering(variables=effort_variables(body.reasoning.effort if body.reasoning else None)),
        tools=tools,
        required=required,
        parallel=several and body.parallel_tool_calls is not False,
        format=_format(body),
        sampling=replace(how, top_n_tokens=body.top_logprobs or 0),
        max_new_tokens=body.max_output_tokens,
    )


def _format(body: ResponsesBody) -> Format | None:
    asked = body.text and body.text.format
    if not asked or asked.type == "text":
        return None
    if asked.type == "json_object":
        return JsonObjectFormat()
    require(asked.schema is not None, "`text.format` of the type `json_schema` needs a `schema`", "text.format")
    return JsonSchemaFormat(NamedSchema(asked.schema, asked.name or "", asked.description, asked.strict))


def _tool(index: int, tool: ResponseTool) -> Tool:
    param = f"tools[{index}]"
    if tool.type != "function":
        kind = tool.type[:MOST_SAID]
        message = f"`{param}` is of the type `{kind}`: only functions are supported"
        raise ValidationError(message, param, logged=f"`{param}` is of a type that is not supported")
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    return tool_of(function, param)


def _instructions(body: ResponsesBody) -> Iterator[Message]:
    if body.instructions is not None:
        yield Message("system", body.instructions)


def _messages(body: ResponsesBody) -> Iterator[Message]:
    """Messages as the chat knows them. What the assistant thought, said and called in a row is one."""
    if isinstance(body.input, str):
        yield Message("user", body.input)
        return
    placed = [(item, f"input[{index}]") for index, item in enumerate(body.input)]
    for of_assistant, some in groupby(placed, lambda each: _is_assistants(each[0])):
        if of_assistant:
            yield from _of_assistant(list(some))
        else:
            yield from (_of_others(item, param) for item, param in some)


def _is_assistants(item: InputItem) -> bool:
    return item.type in _ASSISTANTS or (item.type in (None, "message") and item.role == "assistant")


@dataclass(slots=True)
class _Said:
    """One turn of the assistant's."""

    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def message(self) -> Message:
        thought = SEPARATOR.join(self.thoughts) or None
        content = SEPARATOR.join(self.texts)
        return Message("assistant", content, tool_calls=self.calls or None, reasoning_content=thought)


def _of_assistant(items: Sequence[tuple[InputItem, str]]) -> Iterator[Message]:
    """What the assistant said; a thought or a text behind a call begins another turn."""
    said = _Said()
    for item, param in items:
        if said.calls and item.type != "function_call":
            yield said.message()
            said = _Said()
        if item.type == "function_call":
            said.calls.append(_call(item, param))
        elif item.type == "reasoning":
            said.thoughts.append(_said(item.content or item.summary or "", f"{param}.content"))
        else:
            said.texts.append(_said(item.content or "", f"{param}.content"))
    yield said.message()


def _call(item: InputItem, param: str) -> ToolCall:
    require(bool(item.name), f"`{param}` needs the `name` of a function", param)
    try:
        given = msgspec.json.decode(item.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise ValidationError(f"`{param}.arguments` is not a JSON object", f"{param}.arguments") from None
    return ToolCall(FunctionCall(item.name or "", given), item.call_id)


def _of_others(item: InputItem, param: str) -> Message:
    if item.type == "function_call_output":
        return Message("tool", _said(item.output or "", f"{param}.output"), tool_call_id=item.call_id)
    if item.type not in (None, "message"):
        kind = item.type[:MOST_SAID]
        message = f"`{param}` is of the type `{kind}`, which is not supported"
        raise ValidationError(message, param, logged=f"`{param}` is of a type that is not supported")
    if not item.role:
        raise ValidationError(f"`{param}` needs a `role`", param)
    return Message(item.role, _said(item.content or "", f"{param}.content"))


def _said(content: str | Sequence[InputPart], param: str) -> str:
    """A text, or texts as they are in a row."""
    if isinstance(content, str):
        return content
    return "".join(_text(part, f"{param}[{index}]") for index, part in enumerate(content))


def _text(part: InputPart, param: str) -> str:
    text = part.refusal if part.type == "refusal" else part.text
    if part.type != "refusal" and part.type not in _READABLE:
        raise unreadable(part.type, param)
    if text is None:
        raise ValidationError(f"`{param}` is of the type `{part.type}` and needs a text", param)
    return text
