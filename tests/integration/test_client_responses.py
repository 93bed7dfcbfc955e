"""The client library of OpenAI against a running server: the Responses API, and agents by chat and by responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.lib._tools import pydantic_function_tool
from pydantic import BaseModel

from tests.integration.server import Server

ASK = "What is the capital of France?"
FORECAST = "What will the weather be in Bern?"
PLACE = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["place", "unit"],
    "additionalProperties": False,
}
FUNCTIONS: dict[str, Any] = {"clock": {"type": "object", "properties": {}}, "weather": PLACE}
TOOLS: Any = [{"type": "function", "name": name, "parameters": schema} for name, schema in FUNCTIONS.items()]
CHAT_TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in FUNCTIONS.items()
]
GREEDY: Any = {"model": "any", "temperature": 0}


class City(BaseModel):
    name: str
    inhabitants: int


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_responses(client: OpenAI, server: Server) -> None:
    answer = client.responses.create(**GREEDY, input=ASK, store=False, metadata={"a": "b"})
    assert answer.output_text == "The capital of France is Paris."
    assert answer.status == "completed" and answer.metadata == {"a": "b"}
    messages = [{"role": "user", "content": ASK}]
    chat = server.client.post("/v1/chat/completions", json={"messages": messages, "temperature": 0}).json()
    assert answer.output_text == chat["choices"][0]["message"]["content"]
    assert answer.usage and answer.usage.output_tokens == chat["usage"]["completion_tokens"]
    assert answer.usage.input_tokens == chat["usage"]["prompt_tokens"]
    cut = client.responses.create(**GREEDY, input=ASK, max_output_tokens=3)
    assert (cut.output_text, cut.status) == ("The capital of", "incomplete")
    assert cut.incomplete_details and cut.incomplete_details.reason == "max_output_tokens"


def test_a_conversation(client: OpenAI) -> None:
    first = client.responses.create(**GREEDY, input=ASK, instructions="Be brief.")
    turns: Any = [{"role": "user", "content": ASK}, *first.output, {"role": "user", "content": "And of Italy?"}]
    second = client.responses.create(**GREEDY, input=turns, instructions="Be brief.")
    assert second.output_text and second.usage and first.usage
    assert second.usage.input_tokens > first.usage.input_tokens


def test_stream(client: OpenAI) -> None:
    whole = client.responses.create(**GREEDY, input=ASK, top_logprobs=2)
    with client.responses.stream(**GREEDY, input=ASK, top_logprobs=2) as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == whole.output_text == "The capital of France is Paris."
    assert final.usage and whole.usage and final.usage.total_tokens == whole.usage.total_tokens
    assert events[-1].type == "response.completed"
    for response in (whole, final):
        content: Any = response.output[0].to_dict()["content"]
        logprobs = content[0]["logprobs"]
        assert "".join(token["token"] for token in logprobs) == final.output_text
        assert all(len(token["top_logprobs"]) == 2 for token in logprobs)


def test_parse(client: OpenAI) -> None:
    answer = client.responses.parse(**GREEDY, input=ASK, text_format=City, max_output_tokens=80)
    assert isinstance(answer.output_parsed, City)
    with client.responses.stream(**GREEDY, input=ASK, text_format=City, max_output_tokens=80) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == answer.output_parsed
    text: Any = {"format": {"type": "json_object"}}
    answer = client.responses.create(**GREEDY, input=ASK, text=text, max_output_tokens=40)
    assert isinstance(json.loads(answer.output_text), dict)


def test_tools_that_are_parsed(client: OpenAI) -> None:
    tool: Any = {"type": "function", **pydantic_function_tool(City)["function"]}
    asked: Any = {"input": ASK, "tools": [tool], "tool_choice": "required", "max_output_tokens": 80}
    answer = client.responses.parse(**GREEDY, **asked, parallel_tool_calls=False)
    (call,) = answer.output
    assert call.type == "function_call" and isinstance(call.parsed_arguments, dict)
    with client.responses.stream(**GREEDY, **asked, parallel_tool_calls=False) as stream:
        kinds = {event.type for event in stream}
        (streamed,) = stream.get_final_response().output
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds
    assert streamed.type == "function_call" and streamed.arguments == call.arguments


def test_an_agent(client: OpenAI) -> None:
    """Three turns: two that call, the second with the result of the first, and one that answers."""
    turns: Any = [{"role": "user", "content": FORECAST}]
    for turn, name in enumerate(FUNCTIONS):
        answer = client.responses.create(
            **GREEDY, input=turns, tools=TOOLS, tool_choice={"type": "function", "name": name}, max_output_tokens=80
        )
        (call,) = answer.output
        assert call.type == "function_call" and call.name == name and answer.status == "completed"
        assert json.loads(call.arguments).keys() == set(FUNCTIONS[name].get("required", []))
        turns += [call, {"type": "function_call_output", "call_id": call.call_id, "output": f"result {turn}"}]
    assert len({turns[at].call_id for at in (1, 3)}) == 2
    final = client.responses.create(**GREEDY, input=turns, tools=TOOLS, tool_choice="none", max_output_tokens=30)
    assert final.output_text and {item.type for item in final.output} == {"message"}


def test_an_agent_by_chat(client: OpenAI) -> None:
    """The same by `/v1/chat/completions`, streamed as agents do."""
    messages: Any = [{"role": "user", "content": FORECAST}]
    for turn, name in enumerate(FUNCTIONS):
        with client.chat.completions.stream(
            **GREEDY,
            messages=messages,
            tools=CHAT_TOOLS,
            tool_choice={"type": "function", "function": {"name": name}},
            max_tokens=80,
        ) as stream:
            message = stream.get_final_completion().choices[0].message
        (call,) = message.tool_calls or []
        assert call.function.name == name
        assert json.loads(call.function.arguments).keys() == set(FUNCTIONS[name].get("required", []))
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": f"result {turn}"}]
    assert len({messages[at]["tool_call_id"] for at in (2, 4)}) == 2
    final = client.chat.completions.create(
        **GREEDY, messages=messages, tools=CHAT_TOOLS, tool_choice="none", max_tokens=30
    )
    assert final.choices[0].message.content and not final.choices[0].message.tool_calls


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 9}, "temperature", "validation"),
        ({"input": []}, "input", "validation"),
        ({"max_output_tokens": 10**6}, "input", "context_length_exceeded"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "validation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "validation"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(client: OpenAI, fields: dict[str, Any], param: str, code: str, stream: bool) -> None:
    body: dict[str, Any] = {"model": "any", "input": ASK, "stream": stream} | fields
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**body)
    assert (caught.value.type, caught.value.param, caught.value.code) == ("invalid_request_error", param, code)


def test_nothing_is_kept(client: OpenAI) -> None:
    answer = client.responses.create(**GREEDY, input=ASK, max_output_tokens=2)
    for forget in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="not kept"):
            forget(answer.id)
