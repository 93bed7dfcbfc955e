"""Messages and responses: a stream and its unstreamed twin say the same, which is what a chat says, however tokens cut
what a model writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from anthropic.types import Message
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.router_app import EOS_ID, TEMPLATE, TOKENIZER, Router, started
from tests.unit.router.anthropic import test_messages as messages
from tests.unit.router.openai import test_openai as chats
from tests.unit.router.openai.responses import test_responses as responses
from tgi_server.types import NewSequence

HELLO = [{"role": "user", "content": "hello"}]
NAMES = ("f", "g")
SCHEMA = {"type": "object"}
CHAT_TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
MESSAGE_TOOLS = [{"name": name, "input_schema": SCHEMA} for name in NAMES]
RESPONSE_TOOLS = [{"type": "function", "name": name, "parameters": SCHEMA} for name in NAMES]
Said = list[tuple[str, str]]
"""Thoughts, texts and calls in their order, each with its kind or name."""


@dataclass
class Model:
    """A router on a model that writes `ids`, whatever it is asked."""

    runner: asyncio.Runner
    router: Router
    ids: list[int]

    def chat(self, body: dict[str, Any]) -> Said:
        asked = {"messages": HELLO, "tools": CHAT_TOOLS} | body
        status, whole, _ = self.runner.run(chats.post(self.router, "/v1/chat/completions", asked))
        assert status == 200, whole
        message = whole["choices"][0]["message"]
        thought, text = message.get("reasoning_content"), message["content"]
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
        return [("thought", thought)] * bool(thought) + [("text", text)] * bool(text) + calls

    def message(self, body: dict[str, Any]) -> Said:
        """Of both, which have to say the same."""
        asked = {"messages": HELLO, "tools": MESSAGE_TOOLS, "stop_sequences": body["stop"]} | body
        status, whole, _ = self.runner.run(messages.post(self.router, asked))
        assert status == 200, whole
        read = messages.read(self.runner.run(messages.stream(self.router, asked)))
        message = Message.model_validate(whole)
        said, streamed = messages.comparable(message), messages.comparable(read)
        if said["content"] and said["content"][-1]["type"] == "tool_use" and message.stop_reason == "max_tokens":
            del said["content"][-1]["input"], streamed["content"][-1]["input"]  # cut off: clients have their own ways
        assert streamed == said
        assert message.stop_sequence is None or message.stop_sequence in body["stop"]
        return [_block(block.to_dict()) for block in message.content]

    def response(self, body: dict[str, Any]) -> Said:
        """Of both, which have to say the same."""
        asked = {"tools": RESPONSE_TOOLS, "max_output_tokens": body["max_tokens"]} | body
        status, whole, _ = self.runner.run(responses.post(self.router, asked))
        assert status == 200, whole
        last = responses.read(self.runner.run(responses.stream(self.router, asked)))
        assert responses.comparable(last) == responses.comparable(whole)
        return [_item(item) for item in whole["output"]]


def _block(block: dict[str, Any]) -> tuple[str, str]:
    if block["type"] == "tool_use":
        return block["name"], json.dumps(block["input"], ensure_ascii=False)
    return ("thought", block["thinking"]) if block["type"] == "thinking" else ("text", block["text"])


def _item(item: dict[str, Any]) -> tuple[str, str]:
    if item["type"] == "function_call":
        return item["name"], item["arguments"]
    return "thought" if item["type"] == "reasoning" else "text", item["content"][0]["text"]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    ids = [EOS_ID]

    def choose(new: NewSequence, position: int) -> int:
        written = position - len(new.prompt_ids)
        return ids[written] if written < len(ids) else EOS_ID

    with asyncio.Runner() as runner:
        opened = started(choose, template=TEMPLATE + "{# <think></think> #}")
        yield Model(runner, runner.run(opened.__aenter__()), ids)
        runner.run(opened.__aexit__(None, None, None))


PIECES = ["a", "b ", "\n", " ", "é", "🙂", '"', "{", "}", "<", "<tool", "_call>", "</tool_call>", "<think>", "</think>"]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
STOPS = st.lists(st.sampled_from(["\n", "}", '"', "<", "ool_c", "a", "ab", "🙂", "b "]), max_size=3, unique=True)
VALUES = st.integers() | st.sampled_from(['a "}{" b\\', "\n</tool_call>", "é🙂", ""]) | st.just([{"x": None}, 1.5])
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(["p", "ü"]), VALUES)), max_size=2)
CUTS = st.sets(st.integers(1, 120), max_size=20)


def _written(thought: str, content: str, calls: Sequence[tuple[str, Any]]) -> str:
    texts = [
        f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(given, ensure_ascii=False)}}}\n</tool_call>'
        for name, given in calls
    ]
    return (f"<think>{thought}</think>\n\n" if thought else "") + content + "\n".join(texts)


def _ids(text: str, cuts: set[int]) -> list[int]:
    """Token ids of a text, of which some begin at each of the `cuts`."""
    at = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    return [id for start, end in pairwise(at) for id in TOKENIZER.encode(text[start:end]).ids]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(thought=CONTENT, content=CONTENT, calls=CALLS, stops=STOPS, cuts=CUTS, short=st.integers(0, 30))
def test_twins_say_the_same(
    model: Model, thought: str, content: str, calls: list[Any], stops: list[str], cuts: set[int], short: int
) -> None:
    model.ids[:] = ids = _ids(_written(thought, content, calls), cuts)
    assume(ids)
    whole = {"max_tokens": len(ids) + 1}
    told = model.message(whole | {"stop": stops})
    assert told == model.chat(whole | {"stop": stops})
    assert model.response(whole) == model.chat(whole | {"stop": []})
    some = {"max_tokens": max(len(ids) - short, 1), "stop": stops}
    model.message(some)
    assert model.response(some) == model.chat(some | {"stop": []})
