"""The client library of OpenAI against a running server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.integration.server import Server

ASK: Any = [{"role": "user", "content": "What is the capital of France?"}]
FORECAST: Any = [{"role": "user", "content": "What will the weather be in Bern?"}]
PLACE = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["place", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "The weather of a place", "parameters": PLACE}},
    {"type": "function", "function": {"name": "time_of_day", "parameters": {"type": "object", "properties": {}}}},
]


class Answer(BaseModel):
    """What a client wants to read."""

    answer: str


NAMED: Any = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="any", messages=ASK, temperature=0)
    (choice,) = answer.choices
    assert choice.message.content == "The capital of France is Paris." and choice.finish_reason == "stop"
    assert choice.message.role == "assistant" and answer.object == "chat.completion"
    assert answer.usage and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    cut = client.chat.completions.create(model="any", messages=ASK, temperature=0, max_completion_tokens=3)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("The capital of", "length")


def test_chat_stream(client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(
        model="any", messages=ASK, temperature=0, stream=True, stream_options=options
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The capital of France is Paris."
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert last.choices == [] and last.usage and last.usage.completion_tokens == len(chunks)


def test_chat_logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any", messages=ASK, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.content
    assert "".join(token.token for token in logprobs.content) == answer.choices[0].message.content
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].logprob == token.logprob <= 0
        assert bytes(token.bytes or []) == token.token.encode()


def test_several_choices_and_seeds(client: OpenAI) -> None:
    def ask(seed: int, n: int) -> list[str | None]:
        answer = client.chat.completions.create(model="any", messages=ASK, max_tokens=12, n=n, seed=seed)
        assert [choice.index for choice in answer.choices] == list(range(n))
        return [choice.message.content for choice in answer.choices]

    four = ask(seed=5, n=4)
    assert ask(seed=5, n=4) == four and len(set(four)) > 1
    assert ask(seed=6, n=1) == four[1:2]


def test_stop(client: OpenAI) -> None:
    for stop in (" France", ["nowhere", " France"]):
        answer = client.chat.completions.create(model="any", messages=ASK, temperature=0, stop=stop)
        assert answer.choices[0].message.content == "The capital of" and answer.choices[0].finish_reason == "stop"


def test_logit_bias_and_penalties(client: OpenAI) -> None:
    plain = client.chat.completions.create(model="any", messages=ASK, temperature=0, logprobs=True)
    logprobs = plain.choices[0].logprobs
    assert logprobs and logprobs.content and logprobs.content[0].token == "The"
    banned = client.completions.create(model="any", prompt="x", max_tokens=4, logit_bias={"260": 100}, temperature=0)
    assert len(set(banned.choices[0].text.split())) == 1, "one token is forced"
    often: Any = [{"role": "user", "content": "Say: no no no no"}]
    for penalty in ("presence_penalty", "frequency_penalty"):
        fields: Any = {penalty: 2.0}
        free = client.chat.completions.create(model="any", messages=often, temperature=0, max_tokens=40)
        less = client.chat.completions.create(model="any", messages=often, temperature=0, max_tokens=40, **fields)
        assert _repeated(less.choices[0].message.content) < _repeated(free.choices[0].message.content)


def _repeated(text: str | None) -> int:
    words = re.findall(r"\w+", (text or "").lower())
    return len(words) - len(set(words))


def test_completions(client: OpenAI) -> None:
    prompts = ["The capital of France is", "Once upon a time"]
    both = client.completions.create(model="any", prompt=prompts, max_tokens=4, temperature=0, logprobs=2)
    each = [client.completions.create(model="any", prompt=p, max_tokens=4, temperature=0) for p in prompts]
    assert [choice.text for choice in both.choices] == [answer.choices[0].text for answer in each]
    logprobs = both.choices[0].logprobs
    assert both.choices[0].text.startswith(" Paris") and logprobs and logprobs.tokens and len(logprobs.tokens) == 4
    echo = client.completions.create(
        model="any", prompt="The capital of France is", max_tokens=0, echo=True, logprobs=1
    )
    logprobs = echo.choices[0].logprobs
    assert echo.choices[0].text == "The capital of France is" and logprobs and logprobs.token_logprobs
    assert logprobs.token_logprobs[0] is None and logprobs.token_logprobs[-1] > -1.0
    chunks = client.completions.create(model="any", prompt=prompts[1], max_tokens=4, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == both.choices[1].text


@pytest.mark.parametrize("choice", ["required", NAMED], ids=str)
def test_tools(client: OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model="any",
        messages=FORECAST,
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=80,
    )
    assert answer.choices[0].finish_reason == "tool_calls" and answer.choices[0].message.content is None
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "weather"
    assert json.loads(call.function.arguments).keys() == {"place", "unit"}
    messages = [*FORECAST, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    final = client.chat.completions.create(
        model="any", messages=messages, tools=TOOLS, tool_choice="none", max_tokens=20
    )
    assert final.choices[0].message.content and not final.choices[0].message.tool_calls


def test_tools_streamed(client: OpenAI) -> None:
    """Through the client's own reading of streams, which puts the calls together and parses them."""
    with client.chat.completions.stream(
        model="any", messages=FORECAST, tools=TOOLS, tool_choice=NAMED, temperature=0, max_tokens=80
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds and kinds[-1] == "tool_calls.function.arguments.done"
    (call,) = message.tool_calls or []
    assert json.loads(call.function.arguments).keys() == {"place", "unit"}


def test_tools_that_are_not_needed(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="any", messages=ASK, tools=TOOLS, temperature=0, max_tokens=30)
    message = answer.choices[0].message
    assert bool(message.content) != bool(message.tool_calls)


def test_response_formats(client: OpenAI) -> None:
    formats: Any = [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": PLACE}},
    ]
    for format in formats:
        answer = client.chat.completions.create(
            model="any", messages=FORECAST, response_format=format, max_tokens=60, seed=1
        )
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    for most in (14, 15, 16):  # the client refuses what was cut off
        parsed = client.chat.completions.parse(model="any", messages=ASK, response_format=Answer, max_tokens=most)
        assert parsed.choices[0].message.parsed and parsed.choices[0].message.parsed.answer is not None
    raw: Any = {"response_format": {"type": "regex", "value": "(yes|no)"}}
    answer = client.chat.completions.create(model="any", messages=ASK, extra_body=raw)
    assert answer.choices[0].message.content in ("yes", "no")


def test_a_schema_beside_the_kind_of_a_format(client: OpenAI) -> None:
    raw: Any = {"response_format": {"type": "json_object", "schema": PLACE}}
    answer = client.chat.completions.create(
        model="any", messages=FORECAST, extra_body=raw, max_tokens=60, temperature=0
    )
    assert json.loads(answer.choices[0].message.content or "").keys() == {"place", "unit"}


def test_tools_that_are_allowed(client: OpenAI) -> None:
    clock: Any = {"type": "function", "function": {"name": "time_of_day"}}
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [clock]}}
    answer = client.chat.completions.create(
        model="any", messages=FORECAST, tools=TOOLS, tool_choice=choice, temperature=0, max_tokens=30
    )
    calls = answer.choices[0].message.tool_calls or []
    assert {call.function.name for call in calls if call.type == "function"} == {"time_of_day"}


def test_a_developer_and_parts_of_a_text(client: OpenAI) -> None:
    """The model's template knows neither; it has a system message of its own where there is none."""

    def ask(role: str, content: Any) -> tuple[str | None, int]:
        messages: Any = [{"role": role, "content": content}, *ASK]
        answer = client.chat.completions.create(model="any", messages=messages, temperature=0, max_tokens=8)
        return answer.choices[0].message.content, answer.usage.prompt_tokens if answer.usage else 0

    parts = [{"type": "text", "text": "Answer in "}, {"type": "text", "text": "one word."}]
    assert ask("developer", parts) == ask("system", "Answer in one word.") != ask("user", "Answer in one word.")


def test_a_message_that_is_gone_on_with(client: OpenAI) -> None:
    begun: Any = [*ASK, {"role": "assistant", "content": "The capital of France is"}]
    fields: Any = {"continue_final_message": True, "add_generation_prompt": False, "chat_template_kwargs": {"any": 1}}
    answer = client.chat.completions.create(model="any", messages=begun, temperature=0, extra_body=fields)
    assert answer.choices[0].message.content == " Paris." and answer.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(model="any", messages=begun, temperature=0, extra_body=fields, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == " Paris."


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 9}])
def test_a_conversation_that_is_too_long(client: OpenAI, server: Server, fields: Any) -> None:
    limits = server.client.get("/info").json()
    messages: Any = [{"role": "user", "content": "word " * limits["max_total_tokens"]}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="any", messages=messages, **fields)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert f"maximum context length is {limits['max_total_tokens']} tokens" in caught.value.message
    assert "max_tokens" not in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="any", prompt=messages[0]["content"])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_images_are_refused_by_name(client: OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    with pytest.raises(openai.BadRequestError, match="images are not supported") as caught:
        client.chat.completions.create(model="any", messages=messages)
    assert caught.value.param == "messages[0].content[1]"


def test_models(client: OpenAI, server: Server) -> None:
    assert [model.id for model in client.models.list()] == [server.client.get("/info").json()["model_id"]]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"temperature": 9}, openai.BadRequestError),
        ({"n": 0}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
        ({"messages": "hi"}, openai.BadRequestError),
        ({"max_tokens": 10**6}, openai.BadRequestError),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, openai.BadRequestError),
        ({"tools": [{"type": "function", "function": {"name": "not a name"}}]}, openai.BadRequestError),
        ({"tool_choice": "required"}, openai.BadRequestError),
        ({"modalities": ["text", "audio"]}, openai.BadRequestError),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(client: OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], stream: bool) -> None:
    body: dict[str, Any] = {"model": "any", "messages": ASK, "stream": stream} | fields
    with pytest.raises(error) as caught:
        client.chat.completions.create(**body)
    assert caught.value.type == "invalid_request_error"
    assert isinstance(caught.value.body, dict) and caught.value.body["message"]
