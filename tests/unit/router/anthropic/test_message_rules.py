"""What becomes of a request of the Anthropic API: the conversation that the engine is asked to go on with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from anthropic import types
from anthropic.types import message_count_tokens_params, message_create_params

from tests.router_app import EOS, TOKENIZER
from tgi_server.errors import ValidationError
from tgi_server.router.anthropic import rules, unserved
from tgi_server.router.anthropic.requests import Block, ConversationBody, MessagesBody, ToolDefinition
from tgi_server.router.chat.conversation import Conversation
from tgi_server.router.chat.messages import FunctionCall, Message, ToolCall
from tgi_server.router.chat.template import ChatTemplate
from tgi_server.router.http.formats import JsonFormat
from tgi_server.router.http.limits import Limits
from tgi_server.router.http.wire import parse
from tgi_server.types import SamplingParams

LIMITS = Limits(
    max_input_length=900, max_total_tokens=1000, max_best_of=2, max_stop_sequences=2, max_top_n_tokens=5,
    max_candidates=8, vocab_size=TOKENIZER.get_vocab_size(),
)  # fmt: skip
HELLO = {"role": "user", "content": "hello"}
WEATHER: dict[str, Any] = {"name": "weather", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"place": "Bern"}}
TEMPLATE = ChatTemplate(
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
    {"eos_token": EOS},
)


def read(**fields: Any) -> MessagesBody:
    body = {"max_tokens": 5, "messages": [HELLO]} | fields
    return parse(MessagesBody, json.dumps(body).encode(), "application/json")


def conversation(**fields: Any) -> Conversation:
    return rules.conversation_of(read(**fields), SamplingParams())


def text(said: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": said} | fields


def test_what_is_said() -> None:
    said = conversation(
        system=[text("Be kind", cache_control={"type": "ephemeral"}), text("!")],
        messages=[
            HELLO,
            {"role": "user", "content": [text("a"), text("b")]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, text("Ah"), USE]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
                    text("Well?"),
                    {"type": "tool_result", "tool_use_id": "toolu_2", "content": [text("no")], "is_error": True},
                    {"type": "tool_result", "tool_use_id": "toolu_3"},
                ],
            },
            {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, text("So")]},
            {"role": "system", "content": "Go on"},
        ],
    )  # fmt: skip
    assert said.messages == [
        Message("system", "Be kind\n!"),
        Message("user", "hello\na\nb"),
        Message(
            "assistant",
            "Ah",
            tool_calls=[ToolCall(FunctionCall("weather", {"place": "Bern"}), "toolu_1")],
            reasoning_content="hm",
        ),
        Message("tool", "rain", tool_call_id="toolu_1"),
        Message("tool", "Error: no", tool_call_id="toolu_2"),
        Message("tool", "", tool_call_id="toolu_3"),
        Message("user", "Well?"),
        Message("assistant", "So"),
        Message("system", "Go on"),
    ]
    assert not said.rendering.continue_final


def test_a_last_message_of_the_assistant_is_gone_on_with() -> None:
    body = read(messages=[HELLO, {"role": "assistant", "content": "Par"}])
    prepared = rules.message(body, TEMPLATE, LIMITS, TOKENIZER, 0)
    assert prepared.prompts[0].text == f"[user]hello{EOS}[assistant]Par"
    with pytest.raises(ValidationError, match="`messages` needs a last message") as caught:
        rules.message(read(messages=[HELLO, {"role": "assistant", "content": [USE]}]), TEMPLATE, LIMITS, TOKENIZER, 0)
    assert caught.value.param == "messages"


def test_how_tokens_are_picked_and_when_it_ends() -> None:
    def asked(**fields: Any) -> tuple[SamplingParams, Any]:
        request = rules.message(read(**fields), TEMPLATE, LIMITS, TOKENIZER, 7).requests[0]
        return request.sampling, request.stopping

    how, when = asked(temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["a", "b"], max_tokens=9)
    assert how == SamplingParams(do_sample=True, temperature=0.5, top_p=0.9, top_k=3, seed=7)
    assert (when.stop_sequences, when.max_new_tokens, when.keep_stop) == (("a", "b"), 9, False)
    assert asked()[0] == SamplingParams(do_sample=True, seed=7)
    assert asked(temperature=0, top_k=5)[0] == SamplingParams(seed=7)
    length = rules.length(read(), TEMPLATE, TOKENIZER)
    assert asked(max_tokens=32000)[1].max_new_tokens == 1000 - length


@pytest.mark.parametrize(
    ("choice", "names", "required", "parallel"),
    [
        (None, ["weather", "clock"], False, True),
        ({"type": "auto"}, ["weather", "clock"], False, True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["weather", "clock"], False, False),
        ({"type": "any"}, ["weather", "clock"], True, True),
        ({"type": "any", "disable_parallel_tool_use": True}, ["weather", "clock"], True, False),
        ({"type": "tool", "name": "clock"}, ["clock"], True, False),
        ({"type": "none"}, [], False, True),
    ],
)
def test_tools(choice: Any, names: list[str], required: bool, parallel: bool) -> None:
    clock = {"name": "clock", "type": "custom", "description": "It", "input_schema": {"type": "object"}, "strict": True}
    asked = conversation(tools=[WEATHER, clock], tool_choice=choice)
    assert [tool.function.name for tool in asked.tools] == names
    assert (asked.required, asked.parallel) == (required, parallel)
    if "clock" in names:
        function = asked.tools[-1].function
        assert (function.description, function.parameters, function.strict) == ("It", {"type": "object"}, True)


def test_what_guides_the_text() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}}}
    assert conversation(**body).format == JsonFormat(schema) and read(**body).guided and read(tools=[WEATHER]).guided
    older = {"output_format": {"type": "json_schema", "schema": schema}}
    assert conversation(**older).format == JsonFormat(schema) and read(**older).guided
    assert conversation().format is None and not read().guided


def test_thinking_is_the_templates_to_know() -> None:
    def told(**fields: Any) -> Any:
        return conversation(**fields).rendering.variables

    for kind, thinks in (("enabled", True), ("adaptive", True), ("disabled", False)):
        thinking = {"type": kind, "budget_tokens": 2000}
        assert told(thinking=thinking) == {"enable_thinking": thinks, "thinking": thinks}
        effort = {"reasoning_effort": "low"} if thinks else {}
        assert told(thinking=thinking, output_config={"effort": "low"}) == told(thinking=thinking) | effort
    assert told(output_config={"effort": "max"}) == {
        "enable_thinking": True,
        "thinking": True,
        "reasoning_effort": "max",
    }
    assert told() == {}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 1.1}, "`temperature` must be >= 0.0 and <= 1.0"),
    ({"temperature": -0.1}, "`temperature`"),
    ({"top_p": 0}, "`top_p`"),
    ({"max_tokens": 0}, "`max_tokens` must be strictly positive"),
    ({"stop_sequences": ["a", "b", "c"]}, "`stop_sequences` supports up to 2"),
    ({"stop_sequences": [""]}, "`stop_sequences` cannot hold an empty string"),
    ({"mcp_servers": [{"name": "x"}]}, "`mcp_servers` is not supported"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "`messages[0].content[0]` is of the type `image`: images"),
    ({"messages": [HELLO, {"role": "user", "content": [{"type": "document"}]}]}, "`messages[1].content[0]` is of the"),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": [IMAGE]}]}]},
        "`messages[0].content[0].content[0]` is of the type `image`",
    ),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_result"}]}]}, "is of the type `tool_result`"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "needs the `name` of a tool"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "`messages[0].content[0]` needs a `text`"),
    ({"system": [IMAGE]}, "`system[0]` is of the type `image`"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "`tools[0]` is of the type `bash_20250124`, a tool of"),
    ({"tools": [WEATHER, {"name": "x"}]}, "`tools[1]` needs an `input_schema`"),
    ({"tools": [{"name": "no name", "input_schema": {}}]}, "`tools[0]`: Expected"),
    ({"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "`tools[0]`: the arguments of a function are an"),
    ({"tools": [WEATHER, WEATHER]}, "same name"),
    ({"tool_choice": {"type": "any"}}, "`tool_choice` is `required`, but there are no `tools`"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "needs a `name`"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "f"}}, "`tool_choice` names 'f'"),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "thing"}}}},
        "`output_config.format` cannot be followed",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_mistakes_are_named_as_the_client_knows_the_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)) as caught:
        rules.message(read(**fields), TEMPLATE, LIMITS, TOKENIZER, 0)
    assert caught.value.param and caught.value.param.partition("[")[0].partition(".")[0] in fields


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (MessagesBody, message_create_params.MessageCreateParamsBase.__annotations__.keys() | {"stream"}),
        (ConversationBody, message_count_tokens_params.MessageCountTokensParams.__annotations__.keys()),
    ],
)
def test_every_field_of_the_client_is_read_or_on_the_list(body: Any, fields: set[str]) -> None:
    assert len(fields) > 10 and not fields - unserved.WITHOUT_EFFECT - set(body.__struct_fields__)
    assert not unserved.WITHOUT_EFFECT & set(body.__struct_fields__)


def test_every_field_of_blocks_and_tools_is_read_or_on_the_list() -> None:
    blocks = [
        types.TextBlockParam, types.ToolUseBlockParam, types.ToolResultBlockParam, types.ThinkingBlockParam,
        types.RedactedThinkingBlockParam,
    ]  # fmt: skip
    for param in blocks:
        assert not set(param.__annotations__) - unserved.WITHOUT_EFFECT_INSIDE - set(Block.__struct_fields__)
    unread = set(types.ToolParam.__annotations__) - set(ToolDefinition.__struct_fields__)
    assert not unread - unserved.WITHOUT_EFFECT_INSIDE


def test_the_lists_are_in_the_documentation() -> None:
    text = (Path(__file__).parents[4] / "docs" / "api.md").read_text(encoding="utf-8")
    section, *_ = text.partition("## The Anthropic API\n")[2].partition("\n## ")
    _, told = section.split("Accepted without effect: ")
    outside, inside = told.split("Without effect inside of blocks, tools and `thinking`: ")
    assert set(re.findall(r"`(\w+)`", outside)) == unserved.WITHOUT_EFFECT
    assert set(re.findall(r"`(\w+)`", inside)) == unserved.WITHOUT_EFFECT_INSIDE
