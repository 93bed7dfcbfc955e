"""What a response says of the request: what was asked for, defaults filled in."""

from __future__ import annotations

from typing import Any

from tgi_server.router.chat.messages import AllowedTools, ToolChoice
from tgi_server.router.openai.responses.answers import ToldFormat, ToldReasoning, ToldText, ToldTool
from tgi_server.router.openai.responses.requests import ResponsesBody


def asked(body: ResponsesBody) -> dict[str, Any]:
    """The fields of a response that repeat the request."""
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "top_logprobs": body.top_logprobs or 0,
        "text": ToldText(_format(body)),
        "tools": [
            ToldTool(tool.name or "", tool.description, tool.parameters, bool(tool.strict)) for tool in body.tools or []
        ],
        "tool_choice": _choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "reasoning": ToldReasoning(body.reasoning.effort if body.reasoning else None),
        "metadata": body.metadata or {},
    }


def _format(body: ResponsesBody) -> ToldFormat:
    asked = body.text and body.text.format
    if not asked:
        return ToldFormat("text")
    if asked.type != "json_schema":
        return ToldFormat(asked.type)
    return ToldFormat(asked.type, asked.name or "", asked.schema, asked.description, asked.strict)


def _choice(choice: str | ToolChoice | None) -> Any:
    """A word, a function, or the functions that are allowed."""
    if choice is None or isinstance(choice, str):
        return _function(choice) if choice not in (None, "auto", "none", "required") else choice or "auto"
    if choice.type != "allowed_tools":
        return _function(choice.called)
    allowed = choice.allowed_tools or AllowedTools(choice.tools or [], choice.mode)
    return {"type": choice.type, "mode": allowed.mode, "tools": [_function(tool.called) for tool in allowed.tools]}


def _function(name: str | None) -> dict[str, Any]:
    return {"type": "function", "name": name}
