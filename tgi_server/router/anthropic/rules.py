"""From what a client of the Anthropic API wrote to requests to the engine, or to the first rule it breaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer

from tgi_server.errors import ValidationError
from tgi_server.router.anthropic.requests import Block, ConversationBody, MessagesBody, ToolDefinition
from tgi_server.router.chat import messages as chat
from tgi_server.router.chat.contents import unreadable
from tgi_server.router.chat.conversation import Conversation, prepare, rendered
from tgi_server.router.chat.messages import FunctionCall, FunctionName, Message, Tool, ToolCall, tool_of
from tgi_server.router.chat.reasoning import effort_variables
from tgi_server.router.chat.sampling import check_sampling, sampling
from tgi_server.router.chat.template import ChatTemplate, Rendering
from tgi_server.router.chat.tool_choice import Usable, usable
from tgi_server.router.http.formats import Format, JsonFormat
from tgi_server.router.http.limits import Limits, Prepared, check_stop
from tgi_server.router.http.rules import check_above_zero, renamed, require
from tgi_server.types import SamplingParams

NAMES = {"stop": "stop_sequences", "response_format": "output_config.format", "continue_final_message": "messages"}
"""What fields are called here, by what they are called in the rules that all APIs share."""

SEPARATOR = "\n"
"""Between the texts of one message."""

CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""What the types of a choice are called in the OpenAI API, but `tool`."""

MOST_SAID = 64
"""Characters of a name or type that an error repeats."""


def message(
    body: MessagesBody, template: ChatTemplate | None, limits: Limits, tokenizer: Tokenizer, random_seed: int
) -> Prepared:
    """Check, render and tokenise a conversation.

    Raises:
        ValidationError: the first rule the request breaks.
        TemplateError: there is no template, or it refused the conversation.
    """
    with renamed(NAMES):
        return prepare(_asked(body, limits, random_seed), template, limits, tokenizer)


def length(body: ConversationBody, template: ChatTemplate | None, tokenizer: Tokenizer) -> int:
    """How many tokens the prompt of a conversation has. Raises what `message` raises."""
    with renamed(NAMES):
        return len(rendered(conversation_of(body, SamplingParams()), template, tokenizer)[1])


def _asked(body: MessagesBody, limits: Limits, random_seed: int) -> Conversation:
    check_above_zero("max_tokens", body.max_tokens)
    check_sampling(body.temperature, body.top_p, hottest=1.0)
    stop = tuple(body.stop_sequences or ())
    check_stop(stop, limits)
    how = sampling(body.temperature, body.top_p, random_seed, body.top_k or 0)
    return conversation_of(body, how, max_new_tokens=body.max_tokens, cut_to_fit=True, stop_sequences=stop)


def conversation_of(body: ConversationBody, how: SamplingParams, **stopping: Any) -> Conversation:
    """What a request asks for; `stopping` is when the answer ends.

    Raises:
        ValidationError: the first rule the request breaks.
    """
    require(not body.mcp_servers, "`mcp_servers` is not supported: the server calls no others", "mcp_servers")
    tools = _usable(body)
    messages = [*_system(body), *_messages(body)]
    return Conversation(
        messages=messages,
        rendering=Rendering(continue_final=messages[-1].role == "assistant", variables=_variables(body)),
        tools=tools.tools,
        required=tools.required,
        parallel=tools.several and not (body.tool_choice and body.tool_choice.disable_parallel_tool_use),
        format=_format(body),
        sampling=how,
        **stopping,
    )


def _variables(body: ConversationBody) -> dict[str, Any]:
    """What a chat template may know of how much is to be thought."""
    effort = body.output_config.effort if body.output_config else None
    if body.thinking is None:
        return effort_variables(effort)
    thinks = body.thinking.type != "disabled"
    return {"enable_thinking": thinks, "thinking": thinks} | (effort_variables(effort) if thinks else {})


def _format(body: ConversationBody) -> Format | None:
    asked = (body.output_config.format if body.output_config else None) or body.output_format
    return JsonFormat(asked.schema) if asked else None


def _usable(body: ConversationBody) -> Usable:
    """What the answer may use of the request's tools."""
    tools = [_tool(index, each) for index, each in enumerate(body.tools or [])]
    choice = body.tool_choice
    if choice is None or choice.type != "tool":
        return usable(tools, CHOICES[choice.type] if choice else None)
    require(choice.name is not None, "`tool_choice` of the type `tool` needs a `name`", "tool_choice")
    return usable(tools, chat.ToolChoice(FunctionName(choice.name or "")))


def _tool(index: int, definition: ToolDefinition) -> Tool:
    param = f"tools[{index}]"
    if definition.type not in (None, "custom"):
        kind = definition.type[:MOST_SAID]
        message = f"`{param}` is of the type `{kind}`, a tool of Anthropic's own: only a client's tools are supported"
        raise ValidationError(message, param, logged=f"`{param}` is of a type that is not supported")
    require(definition.input_schema is not None, f"`{param}` needs an `input_schema`", param)
    function = {
        "name": definition.name,
        "description": definition.description,
        "parameters": definition.input_schema,
        "strict": definition.strict,
    }
    return tool_of(function, param)


def _system(body: ConversationBody) -> Iterator[Message]:
    if body.system:
        texts = [body.system] if isinstance(body.system, str) else _texts(body.system, "system")
        yield Message("system", SEPARATOR.join(texts))


def _messages(body: ConversationBody) -> Iterator[Message]:
    """Messages as the chat knows them; those of the same role in a row are one, and results of tools come first."""
    for role, numbered in groupby(enumerate(body.messages), lambda each: each[1].role):
        blocks = [
            (block, f"messages[{index}].content[{number}]")
            for index, turn in numbered
            for number, block in enumerate(_blocks(turn.content))
        ]
        if role == "assistant":
            yield _of_assistant(blocks)
        else:
            yield from _of_others(role, blocks)


Placed = Sequence[tuple[Block, str]]
"""Blocks with the field that each of them is."""


def _blocks(content: str | Sequence[Block]) -> Sequence[Block]:
    return [Block("text", content)] if isinstance(content, str) else content


def _of_assistant(blocks: Placed) -> Message:
    """What the assistant thought, said and called."""
    thoughts, texts, calls = list[str](), list[str](), list[ToolCall]()
    for block, param in blocks:
        if block.type == "tool_use":
            require(bool(block.name), f"`{param}` needs the `name` of a tool", param)
            calls.append(ToolCall(FunctionCall(block.name or "", block.input or {}), block.id))
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type != "redacted_thinking":
            texts.append(_text(block, param))
    thought = SEPARATOR.join(thoughts) or None
    return Message("assistant", SEPARATOR.join(texts), tool_calls=calls or None, reasoning_content=thought)


def _of_others(role: str, blocks: Placed) -> Iterator[Message]:
    """The results of tools, each a message, then what the user says beside them."""
    texts = list[str]()
    for block, param in blocks:
        if block.type == "tool_result" and role == "user":
            yield Message("tool", _result(block, param), tool_call_id=block.tool_use_id)
        else:
            texts.append(_text(block, param))
    if texts or not blocks:
        yield Message(role, SEPARATOR.join(texts))


def _result(block: Block, param: str) -> str:
    content = block.content or ""
    text = content if isinstance(content, str) else SEPARATOR.join(_texts(content, f"{param}.content"))
    return f"Error: {text}" if block.is_error else text


def _texts(blocks: Sequence[Block], param: str) -> list[str]:
    return [_text(block, f"{param}[{index}]") for index, block in enumerate(blocks)]


def _text(block: Block, param: str) -> str:
    if block.type != "text":
        raise unreadable(block.type, param)
    if block.text is None:
        raise ValidationError(f"`{param}` needs a `text`", param)
    return block.text
