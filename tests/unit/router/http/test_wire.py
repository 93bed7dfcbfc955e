import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_server.router.chat.messages import Function, Message, Tool
from tgi_server.router.http.formats import JsonFormat
from tgi_server.router.http.wire import BodyError, dumps, parse, single, without_text
from tgi_server.router.native.requests import GenerateBody, Parameters
from tgi_server.router.openai.requests import ChatBody, CompletionBody, StreamOptions

JSON = "application/json"


def generate(parameters: str) -> Parameters:
    body = parse(GenerateBody, f'{{"inputs": "x", "parameters": {parameters}}}'.encode(), JSON)
    assert isinstance(body.parameters, Parameters)
    return body.parameters


@pytest.mark.parametrize(
    "kind", [JSON, "application/json; charset=utf-8", "application/problem+json", "Application/JSON"]
)
def test_json_content_types(kind: str) -> None:
    assert parse(GenerateBody, b'{"inputs": "x"}', kind).inputs == "x"


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "jsonapplication/json"])
def test_other_content_types_are_415(kind: str) -> None:
    with pytest.raises(BodyError) as caught:
        parse(GenerateBody, b'{"inputs": "x"}', kind)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"inputs": "\xff"}',
        b'{"inputs": "\\ud800"}',
        b'{"inputs": NaN}',
        b'{"x": ' + b"[" * 99999,
        b'{"inputs": "x", "parameters": {"grammar": {"type": "json", "value": ' + b"[" * 99999,
    ],
)
def test_text_that_is_not_json_is_400(data: bytes) -> None:
    with pytest.raises(BodyError) as caught:
        parse(GenerateBody, data, JSON)
    assert caught.value.status == 400


@pytest.mark.parametrize(("data", "words"), [
    (b"", "body is empty"),
    (b" \r\n", "body is empty"),
    (b'{"inputs": "x"', "as JSON: Input data was truncated"),
    (b'{"inputs": x}', "as JSON: JSON is malformed: invalid character (byte 11)"),
    (b"inputs=x", "as JSON: JSON is malformed: invalid character (byte 0)"),
    (b'{"inputs": "x"} {}', "as JSON: JSON is malformed: trailing characters (byte 17)"),
])  # fmt: skip
def test_what_is_no_json_is_told(data: bytes, words: str) -> None:
    with pytest.raises(BodyError) as caught:
        parse(GenerateBody, data, JSON)
    assert caught.value.status == 400 and words in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [
        '{"max_new_tokens": 10.0}',
        '{"max_new_tokens": "10"}',
        '{"max_new_tokens": -1}',
        '{"max_new_tokens": 4294967296}',
        '{"max_new_tokens": true}',
        '{"seed": -1}',
        '{"seed": 18446744073709551616}',
        '{"best_of": 18446744073709551616}',
        '{"top_k": 2147483648}',
        '{"temperature": "1"}',
        '{"temperature": true}',
        '{"stop": null}',
        '{"stop": "x"}',
        '{"do_sample": null}',
        '{"do_sample": 1}',
        '{"details": null}',
        '{"decoder_input_details": null}',
        '{"watermark": null}',
        "null",
        "[]",
    ],
)
def test_other_shapes_are_422(parameters: str) -> None:
    with pytest.raises(BodyError) as caught:
        generate(parameters)
    assert caught.value.status == 422


@pytest.mark.parametrize("data", [b"{}", b"[]", b"null", b'{"inputs": null}', b'{"inputs": "x", "stream": null}'])
def test_other_bodies_are_422(data: bytes) -> None:
    with pytest.raises(BodyError) as caught:
        parse(GenerateBody, data, JSON)
    assert caught.value.status == 422


def test_what_is_taken() -> None:
    assert generate('{"temperature": 1, "unknown": [1]}').temperature == 1.0
    assert generate('{"seed": 18446744073709551615}').seed == 2**64 - 1
    assert generate("{}").max_new_tokens == 100
    nullable = ["best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p"]
    nullable += ["max_new_tokens", "return_full_text", "truncate", "seed", "top_n_tokens"]
    parameters = generate("{" + ",".join(f'"{name}": null' for name in nullable) + "}")
    assert all(getattr(parameters, name) is None for name in nullable)


def test_the_message_names_the_field() -> None:
    with pytest.raises(BodyError, match=r"parameters\.stop\[1\]: Expected `str`, got `int`") as caught:
        generate('{"stop": ["a", 1]}')
    assert caught.value.param == "parameters.stop[1]"


@pytest.mark.parametrize(
    "messages", ["[]", "null", '[{"content": "x"}]', '[{"role": "user", "content": [{"type": 7}]}]', '["x"]']
)
def test_conversations_that_are_none(messages: str) -> None:
    with pytest.raises(BodyError) as caught:
        parse(ChatBody, f'{{"messages": {messages}}}'.encode(), JSON)
    assert caught.value.status == 422 and (caught.value.param or "").startswith("messages")


@pytest.mark.parametrize("prompt", ["null", "1", "{}", "[1.5]", "[null]", '[["x"]]'])
def test_prompts_that_are_none(prompt: str) -> None:
    with pytest.raises(BodyError):
        parse(CompletionBody, f'{{"prompt": {prompt}}}'.encode(), JSON)


def test_the_log_shows_parameters_but_no_text() -> None:
    body = parse(ChatBody, b'{"messages": [{"role": "user", "content": "secret"}], "max_tokens": 3}', JSON)
    assert without_text(body) == {"max_tokens": 3}


def test_single_prints_short() -> None:
    assert single(-0.07891845703125) == -0.07891846
    assert single(0.1) == 0.1
    assert [single(value) for value in (None, math.nan, math.inf, -math.inf)] == [None] * 4


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_single_keeps_the_32_bit_value(value: float) -> None:
    shown = single(value)
    assert shown is not None
    assert struct.pack("f", shown) == struct.pack("f", value)
    assert len(f"{abs(shown):.17g}") >= len(repr(abs(shown)).removesuffix(".0")) - 2


def test_the_log_shows_no_texts_and_nothing_nested() -> None:
    nested: list[Any] = []
    for _ in range(20_000):
        nested = [nested]
    free = JsonFormat(nested)
    tools = [Tool(Function("f", parameters={"x": nested}))]
    chat = ChatBody(messages=[Message("user", "secret")], tools=tools, response_format=free, max_tokens=3)
    assert without_text(chat) == {"max_tokens": 3}
    assert without_text(Parameters(grammar=free, top_k=2, stop=["secret"])) == {"top_k": 2}
    options = StreamOptions(include_usage=True)
    assert without_text(ChatBody(messages=[], stream_options=options)) == {"stream_options": {"include_usage": True}}


def test_what_clients_get_back_is_written_whatever_it_is() -> None:
    deep: Any = None
    for _ in range(400):
        deep = [deep]
    assert json.loads(dumps({"large": 2**70, "deep": deep})) == {"large": 2**70, "deep": deep}
    assert dumps({"large": 2**70, "not": math.inf}) == b'{"large":1180591620717411303424,"not":null}'
    assert json.loads(dumps({"half": "\ud800"})) == {"half": "\ud800"}
