"""What becomes of a request of the Responses API: the conversation that the engine is asked to go on with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from openai import types
from openai.types.responses import response_create_params, response_input_param

from tests.router_app import TEMPLATE, TOKENIZER
from tgi_server.errors import ValidationError
from tgi_server.router.chat.conversation import Conversation
from tgi_server.router.chat.messages import FunctionCall, Message, ToolCall
from tgi_server.router.chat.template import ChatTemplate
from tgi_server.router.http.formats import JsonObjectFormat, JsonSchemaFormat, NamedSchema
from tgi_server.router.http.limits import Limits
from tgi_server.router.http.wire import parse
from tgi_server.router.openai.responses import rules, unserved
from tgi_server.router.openai.responses.requests import (
    InputItem,
    InputPart,
    ResponseFormat,
    ResponseReasoning,
    ResponsesBody,
    ResponseText,
    ResponseTool,
)
from tgi_server.types import SamplingParams

LIMITS = Limits(
    max_input_length=900, max_total_tokens=1000, max_best_of=2, max_stop_sequences=2, max_top_n_tokens=5,
    max_candidates=8, vocab_size=TOKENIZER.get_vocab_size(),
)  # fmt: skip
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
HELLO = {"role": "user", "content": "hello"}


def read(**fields: Any) -> ResponsesBody:
    return parse(ResponsesBody, json.dumps({"input": "hello"} | fields).encode(), "application/json")


def asked(**fields: Any) -> Conversation:
    return rules.conversation_of(read(**fields), LIMITS, 7)


def test_what_is_said() -> None:
    call = {
        "type": "function_call",
        "call_id": "call_1",
        "name": "weather",
        "arguments": '{"place": "Bern"}',
        "id": "fc_1",
    }
    parts = [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]
    said_so = [{"type": "output_text", "text": "Ah", "annotations": []}]
    said = asked(
        instructions="Be kind",
        input=[
            {"role": "developer", "content": "And brief"},
            {"type": "message", "role": "user", "content": parts},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": said_so},
            call,
            call | {"call_id": "call_2", "arguments": ""},
            {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
            {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "no"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
            call | {"call_id": "call_3"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
            HELLO,
        ],
    )  # fmt: skip
    bern = ToolCall(FunctionCall("weather", {"place": "Bern"}), "call_1")
    assert said.messages == [
        Message("system", "Be kind"),
        Message("developer", "And brief"),
        Message("user", "ab"),
        Message(
            "assistant",
            "Ah",
            tool_calls=[bern, ToolCall(FunctionCall("weather", {}), "call_2")],
            reasoning_content="hm",
        ),
        Message("tool", "rain", tool_call_id="call_1"),
        Message("tool", "no", tool_call_id="call_2"),
        Message("assistant", "", tool_calls=[ToolCall(bern.function, "call_3")], reasoning_content="so"),
        Message("assistant", "No"),
        Message("user", "hello"),
    ]
    assert asked().messages == [Message("user", "hello")]


def test_how_tokens_are_picked_and_when_it_ends() -> None:
    request = asked(temperature=1.5, top_p=0.9, max_output_tokens=9, top_logprobs=3)
    assert request.sampling == SamplingParams(do_sample=True, temperature=1.5, top_p=0.9, seed=7, top_n_tokens=3)
    assert (request.max_new_tokens, request.cut_to_fit) == (9, False)
    assert asked(temperature=0, top_p=0.5).sampling == SamplingParams(seed=7)
    assert asked().sampling == SamplingParams(do_sample=True, seed=7) and asked().max_new_tokens is None


def test_tools_and_what_guides_the_text() -> None:
    clock = {"type": "function", "name": "clock", "description": "It", "strict": True, "parameters": None}
    both = asked(tools=[WEATHER, clock], parallel_tool_calls=False)
    assert [tool.function.name for tool in both.tools] == ["weather", "clock"]
    assert (both.required, both.parallel) == (False, False)
    assert (both.tools[1].function.description, both.tools[1].function.strict) == ("It", True)
    one = asked(tools=[WEATHER, clock], tool_choice={"type": "function", "name": "clock"})
    assert [tool.function.name for tool in one.tools] == ["clock"] and one.required and not one.parallel
    schema = {"type": "object"}
    format = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    assert asked(text={"format": format}).format == JsonSchemaFormat(NamedSchema(schema, "n", None, True))
    assert asked(text={"format": {"type": "json_object"}}).format == JsonObjectFormat()
    assert asked(text={"format": {"type": "text"}, "verbosity": "low"}).format is None
    assert read(text={"format": format}).guided and read(tools=[WEATHER]).guided and not read().guided


def test_how_much_is_thought_is_the_templates_to_know() -> None:
    for reasoning, told in (
        (None, {}),
        ({}, {}),
        ({"effort": None, "summary": "auto"}, {}),
        ({"effort": "none"}, {"enable_thinking": False, "thinking": False}),
        ({"effort": "high"}, {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
    ):
        assert asked(reasoning=reasoning).rendering.variables == told


IMAGE = {"type": "input_image", "image_url": "x"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 2.1}, "`temperature` must be >= 0.0 and <= 2.0"),
    ({"top_p": 1.1}, "`top_p`"),
    ({"top_logprobs": 6}, "`top_logprobs`"),
    ({"max_output_tokens": 0}, "`max_output_tokens` must be strictly positive"),
    ({"input": []}, "`input` is empty"),
    (
        {"input": [{"role": "user", "content": [IMAGE]}]},
        "`input[0].content[0]` is of the type `input_image`: images are",
    ),
    ({"input": [HELLO, {"type": "function_call_output", "output": [IMAGE]}]}, "`input[1].output[0]` is of the type"),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, "`input[0]` is of the type `web_search_call`, which is not"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "`input[0]` is of the type `item_reference`, which is not"),
    ({"input": [{"content": "x"}]}, "`input[0]` needs a `role`"),
    ({"input": [{"type": "function_call", "arguments": "{}"}]}, "`input[0]` needs the `name` of a function"),
    (
        {"input": [{"type": "function_call", "name": "f", "arguments": "{"}]},
        "`input[0].arguments` is not a JSON object",
    ),
    (
        {"input": [{"type": "function_call", "name": "f", "arguments": "[]"}]},
        "`input[0].arguments` is not a JSON object",
    ),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "`input[0].content[0]` is of the type"),
    ({"tools": [{"type": "web_search"}]}, "`tools[0]` is of the type `web_search`: only functions are supported"),
    ({"tools": [WEATHER, {"type": "custom", "name": "x"}]}, "`tools[1]` is of the type `custom`"),
    ({"tools": [{"type": "function"}]}, "`tools[0]`: Expected"),
    ({"tools": [{"type": "function", "name": "no name"}]}, "`tools[0]`: Expected"),
    ({"tools": [WEATHER, WEATHER]}, "same name"),
    ({"tool_choice": "required"}, "`tool_choice` is `required`, but there are no `tools`"),
    ({"tools": [WEATHER], "tool_choice": {"type": "web_search_preview"}}, "`tool_choice` of the type"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "`text.format` of the type `json_schema` needs a"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "thing"}}}},
        "`text.format` cannot be followed",
    ),
    *(({name: "x"}, f"`{name}` is not supported") for name in unserved.REFUSED),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_mistakes_are_named_as_the_client_knows_the_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)) as caught:
        rules.response(read(**fields), ChatTemplate(TEMPLATE, {}), LIMITS, TOKENIZER, 0)
    assert caught.value.param and re.split(r"\W", caught.value.param)[0] in fields


def test_what_asks_for_nothing_is_no_mistake() -> None:
    assert asked(background=False, previous_response_id=None, conversation=None).messages


def test_every_field_of_the_client_is_read_or_on_the_list() -> None:
    fields = response_create_params.ResponseCreateParamsBase.__annotations__.keys() | {"stream"}
    known = set(ResponsesBody.__struct_fields__)
    assert len(fields) > 20 and not fields - unserved.WITHOUT_EFFECT - known and not unserved.WITHOUT_EFFECT & known
    for name in unserved.WITHOUT_EFFECT:
        assert read(**{name: "x"}) == read() == read(**{name: {"a": [1]}})


@pytest.mark.parametrize(
    ("param", "struct"),
    [
        (types.responses.EasyInputMessageParam, InputItem),
        (response_input_param.Message, InputItem),
        (types.responses.ResponseOutputMessageParam, InputItem),
        (types.responses.ResponseFunctionToolCallParam, InputItem),
        (response_input_param.FunctionCallOutput, InputItem),
        (types.responses.ResponseReasoningItemParam, InputItem),
        (types.responses.ResponseInputTextParam, InputPart),
        (types.responses.ResponseOutputTextParam, InputPart),
        (types.responses.ResponseOutputRefusalParam, InputPart),
        (types.responses.FunctionToolParam, ResponseTool),
        (types.responses.ResponseTextConfigParam, ResponseText),
        (types.responses.ResponseFormatTextJSONSchemaConfigParam, ResponseFormat),
        (types.shared_params.Reasoning, ResponseReasoning),
    ],
)
def test_every_field_inside_is_read_or_on_the_list(param: Any, struct: Any) -> None:
    assert not set(param.__annotations__) - unserved.WITHOUT_EFFECT_INSIDE - set(struct.__struct_fields__)


def test_the_lists_are_in_the_documentation() -> None:
    text = (Path(__file__).parents[5] / "docs" / "api.md").read_text(encoding="utf-8")
    section, *_ = text.partition("## The Responses API\n")[2].partition("\n## ")
    about, told = section.split("Accepted without effect: ")
    outside, inside = told.split("Without effect inside of items, tools, formats and `reasoning`: ")
    refused = about.rpartition("the fields ")[2]
    assert set(re.findall(r"`(\w+)`", refused)) == unserved.REFUSED.keys()
    assert set(re.findall(r"`(\w+)`", outside)) == unserved.WITHOUT_EFFECT
    assert set(re.findall(r"`(\w+)`", inside)) - {"reasoning"} == unserved.WITHOUT_EFFECT_INSIDE - {"async_"}
