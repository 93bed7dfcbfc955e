"""The client library of Anthropic against a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from pydantic import BaseModel

from tests.integration.server import Server

ASK: Any = [{"role": "user", "content": "What is the capital of France?"}]
FORECAST: Any = [{"role": "user", "content": "What will the weather be in Bern?"}]
PLACE = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["place", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"name": "weather", "description": "The weather of a place", "input_schema": PLACE},
    {"name": "clock", "description": "The time", "input_schema": {"type": "object", "properties": {}}},
]
NAMED: Any = {"type": "tool", "name": "weather"}
GREEDY: Any = {"model": "any", "extra_body": {"temperature": 0}}
"""The newest clients have no `temperature` of their own."""


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Anthropic]:
    with Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key="any", max_retries=0) as client:
        yield client


def test_messages(client: Anthropic, server: Server) -> None:
    answer = client.messages.create(**GREEDY, messages=ASK, max_tokens=100)
    (block,) = answer.content
    assert block.type == "text" and block.text == "The capital of France is Paris."
    assert (answer.stop_reason, answer.stop_sequence, answer.role) == ("end_turn", None, "assistant")
    assert answer._request_id and answer._request_id.startswith("req_")
    chat = server.client.post("/v1/chat/completions", json={"messages": ASK, "temperature": 0}).json()
    assert block.text == chat["choices"][0]["message"]["content"]
    assert answer.usage.output_tokens == chat["usage"]["completion_tokens"]
    counted = client.messages.count_tokens(model="any", messages=ASK)
    assert counted.input_tokens == chat["usage"]["prompt_tokens"]


def test_stops_and_beginnings(client: Anthropic) -> None:
    answer = client.messages.create(**GREEDY, messages=ASK, max_tokens=100, stop_sequences=["nowhere", " France"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " France")
    assert answer.content[0].to_dict()["text"] == "The capital of"
    cut = client.messages.create(**GREEDY, messages=ASK, max_tokens=3)
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 3
    begun: Any = [*ASK, {"role": "assistant", "content": "The capital of"}]
    answer = client.messages.create(**GREEDY, messages=begun, max_tokens=20)
    assert answer.content[0].to_dict()["text"] == " France is Paris."


def test_stream(client: Anthropic) -> None:
    with client.messages.stream(**GREEDY, messages=ASK, max_tokens=100, system="Be brief.") as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    whole = client.messages.create(
        **GREEDY, messages=ASK, max_tokens=100, system=[{"type": "text", "text": "Be brief."}]
    )
    assert text == message.content[0].to_dict()["text"] == whole.content[0].to_dict()["text"] != ""
    assert (message.stop_reason, message.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


@pytest.mark.parametrize("choice", [{"type": "any", "disable_parallel_tool_use": True}, NAMED], ids=str)
def test_tools(client: Anthropic, choice: Any) -> None:
    asked: Any = {"messages": FORECAST, "tools": TOOLS, "tool_choice": choice, "max_tokens": 80}
    answer = client.messages.create(**GREEDY, **asked)
    with client.messages.stream(**GREEDY, **asked) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_message()
    (use,), (other,) = answer.content, streamed.content
    assert answer.stop_reason == streamed.stop_reason == "tool_use" and "input_json" in kinds
    assert use.type == other.type == "tool_use" and use.name == "weather" and use.input == other.input
    assert set(use.input) == {"place", "unit"} and use.id


def test_an_agent(client: Anthropic) -> None:
    """Three turns: two that use a tool, the second with the result of the first, and one that answers."""
    messages: Any = [*FORECAST]
    for turn, name in enumerate(("clock", "weather")):
        answer = client.messages.create(
            **GREEDY, messages=messages, tools=TOOLS, tool_choice={"type": "tool", "name": name}, max_tokens=80
        )
        (use,) = answer.content
        assert use.type == "tool_use" and use.name == name and answer.stop_reason == "tool_use"
        result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": f"result {turn}"}
        messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    uses = [messages[at]["content"][0] for at in (1, 3)]
    assert [messages[at]["content"][0]["tool_use_id"] for at in (2, 4)] == [use.id for use in uses]
    assert len({use.id for use in uses}) == 2
    before = client.messages.count_tokens(model="any", messages=FORECAST, tools=TOOLS).input_tokens
    assert client.messages.count_tokens(model="any", messages=messages, tools=TOOLS).input_tokens > before
    final = client.messages.create(
        **GREEDY, messages=messages, tools=TOOLS, tool_choice={"type": "none"}, max_tokens=30
    )
    assert {block.type for block in final.content} == {"text"} and final.content[0].to_dict()["text"]


class City(BaseModel):
    name: str
    inhabitants: int


def test_formats(client: Anthropic) -> None:
    schema = City.model_json_schema()
    asked: Any = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    answer = client.messages.create(**GREEDY, messages=ASK, max_tokens=80, **asked)
    assert City.model_validate(json.loads(answer.content[0].to_dict()["text"]))
    parsed = client.messages.parse(**GREEDY, messages=ASK, max_tokens=80, output_format=City)
    assert isinstance(parsed.parsed_output, City)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"extra_body": {"temperature": 2}}, "`temperature`"),
        ({"max_tokens": 0}, "`max_tokens`"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "images are not supported"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"messages": [{"role": "user", "content": "z " * 20000}]}, "prompt is too long: "),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(client: Anthropic, fields: dict[str, Any], words: str, stream: bool) -> None:
    body: dict[str, Any] = {"model": "any", "messages": ASK, "max_tokens": 9, "stream": stream} | fields
    with pytest.raises(anthropic.BadRequestError, match=words) as caught:
        client.messages.create(**body)
    assert isinstance(caught.value.body, dict) and caught.value.body["error"]["type"] == "invalid_request_error"
    assert caught.value.request_id == caught.value.body["request_id"]
