"""`huggingface_hub.InferenceClient` against a running server: TGI's own API and the chat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import GenerationError, ValidationError

from tests.integration.server import Server

PROMPT = "The capital of France is"
CHAT: Any = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}


@pytest.fixture(scope="module")
def client(server: Server) -> InferenceClient:
    return InferenceClient(model=f"http://127.0.0.1:{server.port}")


def test_text_generation(client: InferenceClient, server: Server) -> None:
    text = client.text_generation(PROMPT, max_new_tokens=8)
    assert text.startswith(" Paris")
    assert client.text_generation(PROMPT, max_new_tokens=8, return_full_text=True) == PROMPT + text
    assert server.generate(PROMPT, max_new_tokens=8)["generated_text"] == text


def test_details(client: InferenceClient) -> None:
    answer = client.text_generation(
        PROMPT, max_new_tokens=4, details=True, decoder_input_details=True, top_n_tokens=2, seed=7, do_sample=True
    )
    details = answer.details
    assert details and details.finish_reason == "length" and details.generated_tokens == 4 and details.seed == 7
    assert "".join(token.text for token in details.prefill) == PROMPT and details.prefill[0].logprob is None
    assert "".join(token.text for token in details.tokens) == answer.generated_text
    assert details.top_tokens and [len(tops) for tops in details.top_tokens] == [2] * 4


def test_best_of_and_stop(client: InferenceClient) -> None:
    answer = client.text_generation(PROMPT, max_new_tokens=4, details=True, do_sample=True, best_of=2)
    assert answer.details and answer.details.best_of_sequences and len(answer.details.best_of_sequences) == 1
    answer = client.text_generation(PROMPT, max_new_tokens=30, details=True, stop=["Paris"])
    assert answer.generated_text == " Paris"
    assert answer.details and answer.details.finish_reason == "stop_sequence"


def test_stream(client: InferenceClient) -> None:
    text = client.text_generation(PROMPT, max_new_tokens=8)
    assert "".join(client.text_generation(PROMPT, max_new_tokens=8, stream=True)) == text
    events = list(client.text_generation(PROMPT, max_new_tokens=8, stream=True, details=True))
    assert [event.index for event in events] == list(range(1, 9))
    assert "".join(event.token.text for event in events) == events[-1].generated_text == text
    assert events[-1].details and events[-1].details.generated_tokens == 8
    assert all(event.generated_text is None and event.details is None for event in events[:-1])


def test_grammar(client: InferenceClient) -> None:
    grammars: Any = [{"type": "json", "value": SCHEMA}, {"type": "regex", "value": "[A-Z][a-z]{2,8}"}]
    answers = [client.text_generation("A city:", max_new_tokens=60, grammar=grammar) for grammar in grammars]
    assert json.loads(answers[0]).keys() >= {"city"} and answers[1].isalpha()


def test_errors(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
        client.text_generation(PROMPT, temperature=-1.0)
    with pytest.raises((ValidationError, GenerationError), match="`best_of` must be 1"):
        list(client.text_generation(PROMPT, best_of=2, stream=True))


def test_chat(client: InferenceClient) -> None:
    answer = client.chat_completion(CHAT, temperature=0, max_tokens=20)
    assert answer.choices[0].message.content == "The capital of France is Paris."
    chunks = list(client.chat_completion(CHAT, temperature=0, max_tokens=20, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The capital of France is Paris."
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_chat_with_a_schema_and_tools(client: InferenceClient) -> None:
    formats: Any = [
        {"type": "json_object", "value": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}},
    ]
    for format in formats:
        answer = client.chat_completion(CHAT, response_format=format, max_tokens=60)
        assert json.loads(answer.choices[0].message.content or "").keys() >= {"city"}
    tools: Any = [{"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}}]
    answer = client.chat_completion(CHAT, tools=tools, tool_choice="required", max_tokens=80)
    calls = answer.choices[0].message.tool_calls
    assert calls and calls[0].function.name == "look_up" and "city" in json.loads(str(calls[0].function.arguments))
