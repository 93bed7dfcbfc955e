"""Guided output of a real model that knows nothing of grammars: always valid, beside requests that are not guided."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from tests.integration.server import Server

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "born": {"type": "string", "format": "date"},
        "languages": {"type": "array", "items": {"enum": ["de", "fr", "it", "rm"]}, "minItems": 1},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "number": {"type": ["integer", "null"]}},
            "required": ["street", "number"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "born", "languages", "address"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
CHAT = [{"role": "user", "content": "Describe a person who lives in Switzerland, as JSON."}]


def ask(server: Server, **fields: Any) -> dict[str, Any]:
    """The one choice of a chat."""
    answer = server.client.post("/v1/chat/completions", json={"messages": CHAT} | fields)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def test_a_hundred_of_a_hundred_answers_validate(server: Server) -> None:
    """At temperature 1, with every budget from tight to generous."""

    def one(seed: int) -> str:
        choice = ask(server, temperature=1, seed=seed, response_format=FORMAT, max_tokens=80 + seed // 2)
        text: str = choice["message"]["content"]
        jsonschema.validate(json.loads(text), PERSON, format_checker=jsonschema.FormatChecker())
        return text

    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(one, range(100)))
    assert len(set(texts)) == 100


def test_guided_and_free_texts_do_not_disturb_each_other(float32_server: Server) -> None:
    """Greedy float32 texts are the same alone and in company, with and without a guide."""
    free: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
    kinds = [free, free | {"response_format": FORMAT, "max_tokens": 90}, free | {"n": 2}]
    alone = [ask(float32_server, **kind) for kind in kinds]
    with ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda index: ask(float32_server, **kinds[index % 3]), range(9)))
    assert [choice["message"] for choice in together] == [choice["message"] for choice in alone] * 3


def test_a_seed_repeats_a_guided_text(server: Server) -> None:
    fields: dict[str, Any] = {"temperature": 1, "seed": 3, "response_format": FORMAT, "max_tokens": 90}
    assert ask(server, **fields)["message"] == ask(server, **fields)["message"]


@pytest.mark.parametrize("pattern", [r"\d{4}-\d{2}-\d{2}", r"(Bern|Basel|Zürich)( und (Bern|Basel|Zürich))?", "😀{3}"])
def test_regular_expressions(server: Server, pattern: str) -> None:
    for seed in range(5):
        parameters = {"do_sample": True, "seed": seed, "grammar": {"type": "regex", "value": pattern}}
        text = server.generate("Where and when?", **parameters)["generated_text"]
        assert re.fullmatch(pattern, str(text)), text


def test_streamed_text_is_the_whole_one(server: Server) -> None:
    body = {"messages": CHAT, "response_format": FORMAT, "temperature": 1, "seed": 8, "max_tokens": 120}
    whole = ask(server, **body)["message"]["content"]
    with server.client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events) == whole


def test_a_text_that_is_whole_has_ended_at_any_budget(server: Server) -> None:
    """`length` is said of texts that are cut off, and of no other."""

    def one(most: int) -> bool:
        choice = ask(server, response_format={"type": "json_object"}, max_tokens=most, temperature=0)
        try:
            whole = isinstance(json.loads(choice["message"]["content"]), dict)
        except ValueError:
            whole = False
        assert choice["finish_reason"] == ("stop" if whole else "length"), choice
        return whole

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(one, range(1, 17))) == {False, True}
    parameters = {"max_new_tokens": 1, "details": True, "grammar": {"type": "regex", "value": "(y|n)"}}
    answer = server.generate("Yes or no?", **parameters)
    assert answer["generated_text"] in ("y", "n") and answer["details"]["finish_reason"] == "eos_token"  # type: ignore[index]


def tool(parameters: Any, **fields: Any) -> dict[str, Any]:
    """Fields of a request that has to call `f`."""
    function = {"name": "f"} if parameters is None else {"name": "f", "parameters": parameters}
    return {
        "tools": [{"type": "function", "function": function | fields}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "temperature": 0,
        "max_tokens": 60,
    }


INTEGER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TAGS = {"type": "array", "items": {"enum": ["x", "y"]}, "uniqueItems": True, "maxItems": 3}


def test_calls_follow_what_can_be_followed_and_no_stop_sequence_cuts_them(server: Server) -> None:
    cases: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
        (INTEGER, {"stop": ["}", '"', "\n"]}, INTEGER),
        (None, {}, {"const": {}}),
        ({"type": "object", "properties": {"tags": TAGS}, "required": ["tags"], "not": {"required": ["b"]}}, {},
         {"properties": {"tags": TAGS | {"uniqueItems": False}}, "required": ["tags"]}),
    ]  # fmt: skip
    for parameters, fields, expected in cases:
        choice = ask(server, **tool(parameters) | fields)
        (call,) = choice["message"]["tool_calls"]
        jsonschema.validate(json.loads(call["function"]["arguments"]), expected)
        assert choice["finish_reason"] == "tool_calls"
    strict = tool({"type": "object", "properties": {"tags": TAGS}}, strict=True)
    answer = server.client.post("/v1/chat/completions", json={"messages": CHAT} | strict)
    assert answer.status_code == 400
    assert "arguments of `f`" in answer.text and "`uniqueItems` at `$.properties.tags`" in answer.text
