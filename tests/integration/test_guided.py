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
