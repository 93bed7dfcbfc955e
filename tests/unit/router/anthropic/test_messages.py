"""The answers of `/v1/messages`, whole and streamed, read by the types of Anthropic's own client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.router_app import TEMPLATE, Router, says, started
from tgi_server.router.anthropic.rendering import MessageAnswer, given

TEXT = "Paris is the capital of France, été 😀."
HELLO = [{"role": "user", "content": "hello"}]
ARGUMENTS = '{"place": "Bern, \\"CH\\"", "days": [1, 2]}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
TWO = f'{CALL}\n<tool_call>\n{{"name": "clock", "arguments": {{}}}}\n</tool_call>'
TOOLS = [
    {"name": "weather", "description": "It", "input_schema": {"type": "object", "properties": {"place": {}}}},
    {"name": "clock", "input_schema": {"type": "object", "properties": {}}},
]
MESSAGES = "/v1/messages"
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


async def post(router: Router, body: Any, path: str = MESSAGES) -> tuple[int, Any, dict[str, str]]:
    response = await router.app.test_client().post(path, json={"max_tokens": 200, "messages": HELLO} | body)
    text = await response.get_data(as_text=True)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return response.status_code, json.loads(text) if "json" in headers["content-type"] else text, headers


async def stream(router: Router, body: Any) -> list[Any]:
    """The events of a stream, whose names have to be their types."""
    status, text, headers = await post(router, body | {"stream": True})
    assert status == 200 and headers["content-type"] == "text/event-stream" and text.endswith("\n\n")
    events = []
    for block in text[:-2].split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def read(events: list[Any]) -> Message:
    """What the client makes of a stream."""
    message: Any = None
    bufs: dict[int, bytes] = {}
    for event in events:
        if event["type"] != "ping":
            parsed = EVENT.validate_python(event)
            message = accumulate_event(event=parsed, current_snapshot=message, json_bufs=bufs)
    return Message.model_validate(message.to_dict())


def comparable(message: Message) -> dict[str, Any]:
    """What a message says, without the ids, which are others each time, and what the cache had."""
    content = [{**block.to_dict(), "id": None} for block in message.content]
    told, usage = message.to_dict(exclude_none=True), message.usage
    usage.input_tokens, usage.cache_read_input_tokens = usage.input_tokens + (usage.cache_read_input_tokens or 0), None
    return {**told, "id": None, "content": content, "usage": usage.to_dict(exclude_none=True)}


async def test_a_text() -> None:
    async with started(says(TEXT), model_id="served") as router:
        status, body, headers = await post(router, {"model": "any"})
        events = await stream(router, {})
    assert status == 200 and headers["request-id"].startswith("req_") and headers["x-generated-tokens"]
    message = Message.model_validate(body, strict=True)
    assert message.id.startswith("msg_") and message.model == "served" and message.role == "assistant"
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].to_dict()["text"] == TEXT
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert str(message.usage.input_tokens) == headers["x-prompt-tokens"]
    assert str(message.usage.output_tokens) == headers["x-generated-tokens"]
    first, begin, *deltas, end, last, stop = [event["type"] for event in events]
    assert (first, begin, set(deltas)) == ("message_start", "content_block_start", {"content_block_delta"})
    assert (end, last, stop) == ("content_block_stop", "message_delta", "message_stop")
    assert events[0]["message"]["content"] == [] and events[0]["message"]["stop_reason"] is None
    assert comparable(read(events)) == comparable(message)


@pytest.mark.parametrize(
    ("text", "fields", "names", "said"),
    [
        (CALL, {}, ["weather"], None),
        (TWO, {}, ["weather", "clock"], None),
        (f"So: {CALL}", {}, ["weather"], "So: "),
        (f" \n{CALL}", {}, ["weather"], None),
        (CALL, {"tool_choice": {"type": "any"}}, ["weather"], None),
        (CALL, {"tool_choice": {"type": "tool", "name": "weather"}}, ["weather"], None),
        (CALL, {"stop_sequences": ["}", '"', "\n"]}, ["weather"], None),
        (TEXT, {"tool_choice": {"type": "none"}}, [], TEXT),
    ],
)
async def test_tools(text: str, fields: dict[str, Any], names: list[str], said: str | None) -> None:
    async with started(says(text)) as router:
        _, body, _ = await post(router, {"tools": TOOLS} | fields)
        events = await stream(router, {"tools": TOOLS} | fields)
    message = Message.model_validate(body, strict=True)
    uses = [block for block in message.content if block.type == "tool_use"]
    assert [block.text for block in message.content if block.type == "text"] == ([said] if said else [])
    assert [use.name for use in uses] == names and len({use.id for use in uses}) == len(names)
    assert [use.input for use in uses] == [json.loads(ARGUMENTS), {}][: len(names)]
    assert message.stop_reason == ("tool_use" if names else "end_turn")
    assert comparable(read(events)) == comparable(message)
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [
        event["index"] for event in events if event["type"] == "content_block_stop"
    ]


THINKS = TEMPLATE + "{# <think></think> #}"


@pytest.mark.parametrize(
    ("thinking", "told"),
    [(None, True), ({"type": "enabled", "budget_tokens": 9}, True), ({"type": "disabled"}, False),
     ({"type": "adaptive", "display": "omitted"}, False)],
)  # fmt: skip
@pytest.mark.parametrize("answer", [TEXT, CALL])
async def test_thoughts(thinking: Any, told: bool, answer: str) -> None:
    fields = {"thinking": thinking, "tools": TOOLS}
    async with started(says(f"<think>\nWell, well.\n</think>\n\n{answer}"), template=THINKS) as router:
        _, body, _ = await post(router, fields)
        events = await stream(router, fields)
    message = Message.model_validate(body, strict=True)
    thoughts = [block for block in message.content if block.type == "thinking"]
    assert [(block.thinking, block.signature) for block in thoughts] == [("Well, well.", "")] * told
    assert [block.type for block in message.content if block.type != "thinking"] == [
        "tool_use" if answer == CALL else "text"
    ]
    details = message.usage.output_tokens_details
    assert details and 0 < details.thinking_tokens < message.usage.output_tokens
    assert comparable(read(events)) == comparable(message)


async def test_why_a_message_ends() -> None:
    async with started(says(TEXT, then_eos=False), max_input_length=30, max_total_tokens=40) as router:
        for fields, ends in (
            ({"max_tokens": 2}, ("max_tokens", None, "Paris is")),
            ({"stop_sequences": ["nowhere", "capi"], "max_tokens": 9}, ("stop_sequence", "capi", "Paris is the ")),
            ({}, ("model_context_window_exceeded", None, None)),
            ({"messages": [{"role": "user", "content": "z" * 9}]}, ("model_context_window_exceeded", None, None)),
        ):
            _, body, _ = await post(router, fields)
            assert (body["stop_reason"], body["stop_sequence"]) == ends[:2]
            assert ends[2] in (None, body["content"][0]["text"])
            last = (await stream(router, fields))[-2]
            assert last["delta"] == {"stop_reason": ends[0], "stop_sequence": ends[1]}
            assert last["usage"]["output_tokens"] == body["usage"]["output_tokens"]


async def test_what_the_cache_had_is_told() -> None:
    fields = {"system": "You are helpful, brief and kind."}
    async with started(says(TEXT)) as router:
        _, first, headers = await post(router, fields)
        _, second, _ = await post(router, fields)
        start, *_, last, _ = await stream(router, fields)
        _, other, _ = await post(router, {})
    length = int(headers["x-prompt-tokens"])
    cached = length // 16 * 16
    told = [(usage["input_tokens"], usage["cache_read_input_tokens"]) for usage in (first["usage"], second["usage"])]
    assert told == [(length, 0), (length - cached, cached)] and length > 32
    assert start["message"]["usage"]["input_tokens"] == length and last["usage"] == second["usage"]
    assert other["usage"]["cache_read_input_tokens"] == 0


async def test_an_empty_answer_has_no_blocks() -> None:
    async with started(says("")) as router:
        _, body, _ = await post(router, {})
        events = await stream(router, {})
    assert body["content"] == [] and body["stop_reason"] == "end_turn" and body["usage"]["output_tokens"] == 1
    assert [event["type"] for event in events] == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ARGUMENTS, json.loads(ARGUMENTS)),
        ("", {}),
        ('{"a', {}),
        ('{"a": "x, y', {}),
        ('{"a": 1, "b": "x, \\"y', {"a": 1}),
        ('{"a": {"x": 1, "y": 2}, "b": [1, 2, {"c": 3', {"a": {"x": 1, "y": 2}}),
        ('{"a": [1, 2], "b": "\\', {"a": [1, 2]}),
        ("{}", {}),
        (f'{{"a": 1{"0" * 3999}}}', {"a": 10**3999}),
        (f'{{"a": 1{"0" * 5000}}}', {"a": None}),
        ('{"a": 1e999, "b": -1.5e2}', {"a": None, "b": -150.0}),
    ],
)
def test_of_a_use_that_is_cut_off_the_complete_members_are_told(text: str, expected: Any) -> None:
    assert given(text) == expected


async def test_a_use_that_is_cut_off() -> None:
    async with started(says(CALL)) as router:
        for budget in range(20, 60, 3):
            fields = {"tools": TOOLS, "tool_choice": {"type": "any"}, "max_tokens": budget}
            _, body, _ = await post(router, fields)
            events = await stream(router, fields)
            streamed = "".join(
                event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"
            )
            assert ARGUMENTS.startswith(streamed) and body["stop_reason"] in ("max_tokens", "tool_use")
            assert [given(streamed)] * len(body["content"]) == [block["input"] for block in body["content"]]


async def test_counting_takes_no_place() -> None:
    async with started(says(TEXT), max_concurrent_requests=1) as router:
        _, body, _ = await post(router, {"system": "Be kind", "tools": TOOLS})
        with router.engine.permit():
            fields = {"messages": HELLO, "system": "Be kind", "tools": TOOLS}
            response = await router.app.test_client().post(f"{MESSAGES}/count_tokens", json=fields)
        assert response.status_code == 200 and response.headers["request-id"].startswith("req_")
        assert await response.get_json() == {"input_tokens": body["usage"]["input_tokens"]}
        response = await router.app.test_client().post(f"{MESSAGES}/count_tokens", json={"messages": []})
        assert (response.status_code, (await response.get_json())["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("streaming", [False, True])
async def test_errors(streaming: bool) -> None:
    async def error(fields: dict[str, Any]) -> tuple[int, str]:
        status, body, headers = await post(router, fields | {"stream": streaming})
        assert list(body) == ["type", "error", "request_id"] and body["type"] == "error"
        assert body["request_id"] == headers["request-id"] and body["error"]["message"]
        return status, body["error"]["type"]

    limits: dict[str, Any] = {"max_concurrent_requests": 1, "payload_limit": 900, "max_input_length": 100}
    async with started(**limits, max_total_tokens=200) as router:
        for fields in ({"max_tokens": 0}, {"max_tokens": "1"}, {"messages": [{"role": "critic", "content": ""}]}):
            assert await error(fields) == (400, "invalid_request_error")
        assert await error({"system": "x" * 1000}) == (413, "request_too_large")
        with router.engine.permit():
            assert await error({}) == (429, "rate_limit_error")
        status, body, _ = await post(router, {"system": "z" * 200, "stream": streaming})
        assert status == 400 and body["error"]["message"].startswith("prompt is too long: ") and "200" in str(body)
        router.engine.begin_drain()
        assert await error({}) == (529, "overloaded_error")
    async with started(template=None) as router:
        assert await error({}) == (400, "invalid_request_error")


async def test_failures() -> None:
    async with started() as router:
        router.shards.model.failures[0] = "out of memory"
        status, body, _ = await post(router, {})
        assert (status, body["error"]["type"]) == (500, "api_error")
        router.shards.model.failures[1] = "out of memory"
        start, failure = await stream(router, {})
        assert start["type"] == "message_start" and failure["error"] == body["error"]
        assert failure["request_id"].startswith("req_")
        response = await router.app.test_client().get(f"{MESSAGES}/nothing")
        assert (response.status_code, (await response.get_json())["error"]["type"]) == (404, "not_found_error")
        assert response.headers["request-id"].startswith("req_")
        assert router.metric('tgi_request_failure{err="generation"}') == 2


def test_pings_come_while_nothing_else_does() -> None:
    assert MessageAnswer.framing.silence == b'event: ping\ndata: {"type":"ping"}\n\n'


async def test_texts_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    secret = "Zanzibar"
    fields = {
        "messages": [{"role": "user", "content": secret}],
        "system": secret,
        "tools": [{"name": "f", "description": secret, "input_schema": {"title": secret, "type": "object"}}],
        "tool_choice": {"type": "auto", "name": secret},
        "output_config": {"format": {"type": "json_schema", "schema": {"title": secret}}},
        "metadata": {"user_id": secret},
        "mcp_servers": [],
    }
    with caplog.at_level("INFO"):
        async with started(says("{}")) as router:
            assert (await post(router, fields))[0] == 200
            assert (await post(router, fields | {"mcp_servers": [secret]}))[0] == 400
    told = [str(record.__dict__) for record in caplog.records]
    assert any("Success" in text and "max_tokens" in text for text in told) and secret not in "".join(told)
