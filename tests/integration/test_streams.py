"""Texts of a real model whose characters fall into several tokens, as they come and as a whole."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.integration.server import Server

TEXT = "日本語と🙂👩‍👩‍👧 naïve e\u0301!"
GUIDE = {"type": "regex", "value": re.escape(TEXT)}
STOPS = [("本語と🙂",), ("と🙂👩", "本語と🙂👩\u200d👩"), ("👩\u200d👧", "👩\u200d👩\u200d👧 n"), ("ïv", "never")]


def events(server: Server, path: str, body: dict[str, Any]) -> list[Any]:
    with server.client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def native(server: Server, prompt: str, **parameters: Any) -> tuple[list[str], str]:
    """The texts of the tokens of a stream and the whole it tells at its end, which is that of one answer."""
    whole = server.generate(prompt, **parameters)["generated_text"]
    told = events(server, "/generate_stream", {"inputs": prompt, "parameters": parameters})
    assert told[-1]["generated_text"] == whole
    return [event["token"]["text"] for event in told if not event["token"]["special"]], str(whole)


def openai(server: Server, **fields: Any) -> tuple[list[str], str]:
    body = {"prompt": "Say it:", "max_tokens": 64, "response_format": GUIDE, **fields}
    whole = server.client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    told = events(server, "/v1/completions", {**body, "stream": True})
    return [event["choices"][0]["text"] for event in told], whole


def test_characters_come_whole(server: Server) -> None:
    texts, whole = native(server, "Say it:", grammar=GUIDE, max_new_tokens=64)
    assert "".join(texts) == whole == TEXT
    assert not any("\ufffd" in text for text in texts) and texts.count("") > 5, "characters of several tokens"


@pytest.mark.parametrize("stops", STOPS)
def test_stop_sequences_of_such_characters(server: Server, stops: tuple[str, ...]) -> None:
    """In the native API they stay in the text, in OpenAI's they do not."""
    end = min((TEXT.find(stop) + len(stop) for stop in stops if stop in TEXT), default=len(TEXT))
    begin = min((TEXT.find(stop) for stop in stops if TEXT[:end].endswith(stop)), default=end)
    texts, whole = native(server, "Say it:", grammar=GUIDE, max_new_tokens=64, stop=stops)
    assert "".join(texts) == whole == TEXT[:end]
    texts, whole = openai(server, stop=list(stops))
    assert "".join(texts) == whole == TEXT[:begin]
    assert not any("\ufffd" in text for text in texts)


@pytest.mark.parametrize("prompt", ["🙂🙂👩\u200d👩\u200d👧 日本語", "The word is unbeliev"])
def test_what_is_sampled_after_any_prompt(server: Server, prompt: str) -> None:
    texts, whole = native(server, prompt, do_sample=True, seed=1, max_new_tokens=24, stop=["\n\n", "🙂 "])
    assert "".join(texts) == whole
