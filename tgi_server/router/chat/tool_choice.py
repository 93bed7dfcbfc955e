"""Which tools an answer may use, from the many ways to say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tgi_server.errors import ValidationError
from tgi_server.router.chat.messages import AllowedTools, NamedTool, Tool, ToolChoice
from tgi_server.router.http.rules import require

PARAM = "tool_choice"


class Usable(NamedTuple):
    """The tools that an answer may use, whether it has to use one, and whether it may hold several calls."""

    tools: Sequence[Tool] = ()
    required: bool = False
    several: bool = True


def usable(tools: Sequence[Tool], choice: str | ToolChoice | None) -> Usable:
    """What of `tools` may be used.

    Raises:
        ValidationError: two have the same name, the ones chosen are not there, or the choice is of an unknown type.
    """
    known = {tool.function.name: tool for tool in tools}
    require(len(known) == len(tools), "two functions in `tools` have the same name", "tools")
    if isinstance(choice, ToolChoice):
        return _chosen(known, choice)
    if choice in (None, "auto"):
        return Usable(tools)
    if choice == "none":
        return Usable()
    if choice == "required":
        require(bool(tools), f"`{PARAM}` is `required`, but there are no `tools` to call", PARAM)
        return Usable(tools, required=True)
    return Usable([_named(known, choice)], required=True, several=False)


def _chosen(known: dict[str, Tool], choice: ToolChoice) -> Usable:
    if choice.type == "allowed_tools":
        allowed = choice.allowed_tools or AllowedTools(choice.tools or [], choice.mode)
        require(bool(allowed.tools), f"`{PARAM}` of the type `allowed_tools` names no tool", PARAM)
        named = {tool.called: _named(known, _function(tool)) for tool in allowed.tools}
        return Usable(list(named.values()), required=allowed.mode == "required")
    return Usable([_named(known, _function(choice))], required=True, several=False)


def _function(tool: NamedTool) -> str:
    """The name of a function that is to be used."""
    kind = tool.type[:40]
    fault = f"`{PARAM}` of the type `{kind}` is not supported: tools are functions"
    require(kind == "function", fault, PARAM, f"the type of `{PARAM}` is not supported")
    if tool.called is None:
        raise ValidationError(f"`{PARAM}` needs the name of a function", PARAM)
    return tool.called


def _named(known: dict[str, Tool], name: str) -> Tool:
    fault = f"`{PARAM}` names {name[:64]!r}, which is no function of `tools`"
    require(name in known, fault, PARAM, f"`{PARAM}` is no function of `tools`")
    return known[name]
