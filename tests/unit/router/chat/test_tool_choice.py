"""Which tools an answer may use, from the many ways in which clients say so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tgi_server.errors import ValidationError
from tgi_server.router.chat.tool_choice import Usable, usable
from tgi_server.router.http.wire import parse
from tgi_server.router.openai.requests import ChatBody

NAMES = ["f", "g", "h"]
CALLED_F: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
FLAT_H: dict[str, Any] = {"type": "function", "name": "h"}


def asked(choice: Any, names: list[str] = NAMES) -> Usable:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    body = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": choice}
    read = parse(ChatBody, json.dumps(body).encode(), "application/json")
    return usable(read.tools or [], read.tool_choice)


@pytest.mark.parametrize(
    ("choice", "names", "required", "several"),
    [
        (None, NAMES, False, True),
        ("auto", NAMES, False, True),
        ("none", [], False, True),
        ("required", NAMES, True, True),
        ("g", ["g"], True, False),
        (CALLED_F, ["f"], True, False),
        ({"function": {"name": "f"}}, ["f"], True, False),
        (FLAT_H, ["h"], True, False),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CALLED_F, FLAT_H]}},
            ["f", "h"],
            False,
            True,
        ),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CALLED_F]}}, ["f"], True, True),
        ({"type": "allowed_tools", "mode": "required", "tools": [FLAT_H, CALLED_F, FLAT_H]}, ["h", "f"], True, True),
        ({"type": "allowed_tools", "tools": [FLAT_H]}, ["h"], False, True),
    ],
)
def test_what_may_be_called(choice: Any, names: list[str], required: bool, several: bool) -> None:
    found = asked(choice)
    assert [tool.function.name for tool in found.tools] == names
    assert (found.required, found.several) == (required, several)


@pytest.mark.parametrize(
    ("choice", "names", "message"),
    [
        ("required", [], "`tool_choice` is `required`, but there are no `tools` to call"),
        ("x", NAMES, "`tool_choice` names 'x', which is no function of `tools`"),
        (CALLED_F, [], "`tool_choice` names 'f', which is no function of `tools`"),
        ({"type": "custom", "custom": {"name": "f"}}, NAMES, "of the type `custom` is not supported"),
        ({"type": "function"}, NAMES, "needs the name of a function"),
        ({"type": "allowed_tools"}, NAMES, "`tool_choice` of the type `allowed_tools` names no tool"),
        ({"type": "allowed_tools", "allowed_tools": {"tools": []}}, NAMES, "names no tool"),
        ({"type": "allowed_tools", "tools": [CALLED_F]}, ["g"], "names 'f', which is no function"),
        ({"type": "allowed_tools", "tools": [{"type": "mcp"}]}, NAMES, "of the type `mcp` is not supported"),
    ],
)
def test_mistakes_are_named(choice: Any, names: list[str], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        asked(choice, names)
    assert message in str(caught.value) and caught.value.param == "tool_choice"


def test_two_of_a_name() -> None:
    with pytest.raises(ValidationError, match="same name") as caught:
        asked("auto", ["f", "f"])
    assert caught.value.param == "tools"
