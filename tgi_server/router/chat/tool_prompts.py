"""Conversations with function calls, as chat templates take them, and for templates that know nothing of functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from tgi_server.errors import ValidationError
from tgi_server.router.chat.contents import Turn, text_of
from tgi_server.router.chat.messages import Message, Tool, ToolCall
from tgi_server.router.chat.tools import ToolFormat


def turn_of(message: Message, index: int) -> Turn:
    """Message number `index` for a template; its content becomes one text, its calls' arguments objects.

    Raises:
        ValidationError: a part of the content is no text, or the arguments of a call are not a JSON object.
    """
    turn: Turn = {"role": "tool" if message.role == "function" else message.role, "content": text_of(message, index)}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    thoughts = message.reasoning if message.reasoning_content is None else message.reasoning_content
    if thoughts is not None:
        turn["reasoning_content"] = turn["reasoning"] = thoughts
    if message.calls:
        turn["tool_calls"] = [_call(call, index) for call in message.calls]
    return turn


def _call(call: ToolCall, index: int) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = ""
    if not isinstance(arguments, dict):
        param = f"messages[{index}].tool_calls"
        message, logged = f"the arguments of `{call.function.name}`", "the arguments of a call"
        fault = "are not a JSON object"
        raise ValidationError(f"{message} {fault}", param, logged=f"{logged} {fault}")
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def definition(tool: Tool) -> dict[str, Any]:
    """A tool as models were shown them in training, its keys in the usual order."""
    return {"type": tool.type, "function": msgspec.to_builtins(tool.function)}


def explained(turns: Sequence[Turn], tools: Sequence[Tool], format: ToolFormat) -> list[Turn]:
    """The turns for a template without tools: these are explained to the model, and calls and results become text.

    Roles go on to alternate, and no system turn is added: some templates insist on the one, some refuse the other.
    """
    written: list[Turn] = []
    previous = None
    for turn in turns:
        text = _as_text(turn, format)
        if turn["role"] == previous == "tool":
            written[-1]["content"] += f"\n{text['content']}"
        else:
            written.append(text)
        previous = turn["role"]
    if tools:
        _explain(written, _explanation(tools, format))
    return written


def _explain(turns: list[Turn], explanation: str) -> None:
    """Put the explanation behind what the system says, or else before what the user says first."""
    if turns and turns[0]["role"] == "system":
        turns[0] = {**turns[0], "content": f"{turns[0]['content']}\n\n{explanation}"}
        return
    first = next((index for index, turn in enumerate(turns) if turn["role"] == "user"), None)
    if first is None:
        turns.insert(0, {"role": "user", "content": explanation})
    else:
        turns[first] = {**turns[first], "content": f"{explanation}\n\n{turns[first]['content']}"}


def _explanation(tools: Sequence[Tool], format: ToolFormat) -> str:
    functions = "\n".join(json.dumps(msgspec.to_builtins(tool.function), ensure_ascii=False) for tool in tools)
    example = f'{format.begin}{{"name": <function name>, "{format.arguments}": <its arguments>}}{format.end}'
    return (
        "You can call functions. These are their names, what they do, and the JSON schemas of their arguments:\n"
        f"{functions}\n"
        f"To call one, answer with nothing but:\n{example}"
    )


def _as_text(turn: Turn, format: ToolFormat) -> Turn:
    if turn["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}
    if "tool_calls" not in turn:
        return turn
    calls = [
        json.dumps({"name": call["function"]["name"], format.arguments: call["function"]["arguments"]})
        for call in turn["tool_calls"]
    ]
    between = format.between or "\n"
    return {"role": turn["role"], "content": f"{turn['content']}{format.begin}{between.join(calls)}{format.end}"}
