"""The answers of `/v1/responses`, whole and streamed, read by the types of OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.router_app import TEMPLATE, Router, says, started

TEXT = "Paris is the capital of France, été 😀."
ARGUMENTS = '{"place": "Bern, \\"CH\\"", "days": [1, 2]}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
TWO = f'{CALL}\n<tool_call>\n{{"name": "clock", "arguments": {{}}}}\n</tool_call>'
TOOLS = [
    {"type": "function", "name": "weather", "description": "It", "parameters": {"type": "object"}, "strict": False},
    {"type": "function", "name": "clock", "parameters": {"type": "object", "properties": {}}},
]
NAMED = {"type": "function", "name": "weather"}
RESPONSES = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


async def post(router: Router, body: Any) -> tuple[int, Any, dict[str, str]]:
    response = await router.app.test_client().post(RESPONSES, json={"input": "hello"} | body)
    text = await response.get_data(as_text=True)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return response.status_code, json.loads(text) if "json" in headers["content-type"] else text, headers


async def stream(router: Router, body: Any) -> list[Any]:
    """The events of a stream, whose names have to be their types, and whose numbers have to be in order."""
    status, text, headers = await post(router, body | {"stream": True})
    assert status == 200 and headers["content-type"] == "text/event-stream" and text.endswith("\n\n")
    events = []
    for block in text[:-2].split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def read(events: list[Any]) -> Any:
    """The last response of a stream, which is what its other events say, and what the client makes of them."""
    state = ResponseStreamState[Any](input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(EVENT.validate_python(event))
    last = events[-1]["response"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == last["output"]
    assert [pieces(item, events) for item in last["output"]] == [list(said(item)) for item in last["output"]]
    return last


def pieces(item: Any, events: list[Any]) -> list[str]:
    """What the deltas about an item add up to, and what the event after them says."""
    about = [event for event in events if event.get("item_id") == item["id"]]
    done = [
        event.get("text", event.get("arguments")) for event in about if event["type"].endswith(("text.done", "ts.done"))
    ]
    return ["".join(event.get("delta", "") for event in about), *done]


def said(item: Any) -> tuple[str, str]:
    text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
    return text, text


def comparable(response: Any) -> Any:
    """What a response says, without what is another each time."""
    output = [item | {"id": None, "call_id": None} for item in response["output"]]
    usage = response["usage"] | {"input_tokens_details": None}
    return response | {"id": None, "created_at": None, "completed_at": None, "output": output, "usage": usage}


TEXT_EVENTS = [
    "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
    "response.output_item.done", "response.completed",
]  # fmt: skip


async def test_a_text() -> None:
    async with started(says(TEXT), model_id="served") as router:
        status, body, headers = await post(router, {"model": "any", "metadata": {"a": "b"}, "store": True})
        events = await stream(router, {"metadata": {"a": "b"}})
    assert status == 200 and headers["x-generated-tokens"]
    response = Response.model_validate(body)
    assert response.id.startswith("resp_") and response.model == "served" and response.object == "response"
    assert response.output_text == TEXT and response.status == "completed" and response.error is None
    assert response.metadata == {"a": "b"} and body["store"] is False
    assert response.completed_at is not None and response.completed_at >= response.created_at
    (item,) = body["output"]
    assert item["id"].startswith("msg_") and (item["role"], item["status"]) == ("assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}]
    usage = response.usage
    assert usage and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert str(usage.input_tokens) == headers["x-prompt-tokens"]
    assert str(usage.output_tokens) == headers["x-generated-tokens"]
    assert list(dict.fromkeys(event["type"] for event in events)) == TEXT_EVENTS
    assert [event["response"]["status"] for event in events[:2]] == ["in_progress"] * 2
    assert events[0]["response"]["output"] == [] and events[2]["item"]["status"] == "in_progress"
    assert comparable(read(events)) == comparable(body)


@pytest.mark.parametrize(
    ("text", "fields", "names", "content"),
    [
        (CALL, {}, ["weather"], None),
        (TWO, {}, ["weather", "clock"], None),
        (f"So: {CALL}", {}, ["weather"], "So: "),
        (f" \n{CALL}", {}, ["weather"], None),
        (CALL, {"tool_choice": "required"}, ["weather"], None),
        (CALL, {"tool_choice": NAMED}, ["weather"], None),
        (
            CALL,
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "weather"}],
                }
            },
            ["weather"],
            None,
        ),
        (TEXT, {"tool_choice": "none", "parallel_tool_calls": False}, [], TEXT),
    ],
)
async def test_tools(text: str, fields: dict[str, Any], names: list[str], content: str | None) -> None:
    async with started(says(text)) as router:
        _, body, _ = await post(router, {"tools": TOOLS} | fields)
        events = await stream(router, {"tools": TOOLS} | fields)
    response = Response.model_validate(body)
    calls = [item for item in response.output if item.type == "function_call"]
    assert response.output_text == (content or "") and [call.name for call in calls] == names
    assert [call.arguments for call in calls] == [ARGUMENTS, "{}"][: len(names)]
    assert all(call.id and call.id.startswith("fc_") for call in calls)
    assert len({call.call_id for call in calls}) == len(names)
    assert response.status == "completed" and {item["status"] for item in body["output"]} == {"completed"}
    assert body["tool_choice"] == fields.get("tool_choice", "auto")
    assert [tool["strict"] for tool in body["tools"]] == [False, False]
    assert response.parallel_tool_calls is (fields.get("parallel_tool_calls") is None)
    assert comparable(read(events)) == comparable(body)


@pytest.mark.parametrize("answer", [TEXT, CALL])
async def test_thoughts(answer: str) -> None:
    thinks = TEMPLATE + "{# <think></think> #}"
    async with started(says(f"<think>\nWell, well.\n</think>\n\n{answer}"), template=thinks) as router:
        fields = {"tools": TOOLS, "reasoning": {"effort": "low", "summary": "auto"}, "top_logprobs": 1}
        _, body, _ = await post(router, fields)
        events = await stream(router, fields)
    thought, said = body["output"]
    assert thought["id"].startswith("rs_") and thought["summary"] == []
    assert thought["content"] == [{"type": "reasoning_text", "text": "Well, well."}]
    assert said["type"] == ("function_call" if answer == CALL else "message")
    if answer == TEXT:
        assert "".join(token["token"] for token in said["content"][0]["logprobs"]).strip() == TEXT
    details = body["usage"]["output_tokens_details"]
    assert 0 < details["reasoning_tokens"] < body["usage"]["output_tokens"]
    assert body["reasoning"] == {"effort": "low", "summary": None}
    assert comparable(read(events)) == comparable(body)


async def test_what_is_cut_off() -> None:
    async with started(says(CALL)) as router:
        for budget in range(3, 60, 5):
            fields = {"tools": TOOLS, "tool_choice": "required", "max_output_tokens": budget}
            _, body, _ = await post(router, fields)
            events = await stream(router, fields)
            assert comparable(read(events)) == comparable(body)
            ended = events[-1]["type"].removeprefix("response.")
            assert body["status"] == ended and {item["status"] for item in body["output"]} <= {ended}
            if ended == "incomplete":
                assert body["incomplete_details"] == {"reason": "max_output_tokens"} and body["completed_at"] is None
            assert ARGUMENTS.startswith("".join(item["arguments"] for item in body["output"]))
    async with started(says(TEXT)) as router:
        _, body, _ = await post(router, {"max_output_tokens": 2})
    response = Response.model_validate(body)
    assert (response.output_text, response.status) == ("Paris is", "incomplete")
    assert body["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("fields", [{"top_logprobs": 2}, {"include": ["message.output_text.logprobs"]}])
async def test_logprobs(fields: dict[str, Any]) -> None:
    top = fields.get("top_logprobs", 0)
    async with started(says(TEXT)) as router:
        _, body, _ = await post(router, fields)
        events = await stream(router, fields)
    logprobs = body["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in logprobs) == TEXT
    assert b"".join(bytes(token["bytes"]) for token in logprobs) == TEXT.encode()
    assert {token["logprob"] for token in logprobs} == {-0.5} and {
        len(token["top_logprobs"]) for token in logprobs
    } == {top}
    told = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert [token for some in told for token in some] == logprobs
    assert comparable(read(events)) == comparable(body)


async def test_what_the_cache_had_is_told() -> None:
    fields = {"instructions": "You are helpful, brief and kind."}
    async with started(says(TEXT)) as router:
        told = [(await post(router, fields))[1]["usage"] for _ in range(2)]
        told.append((await stream(router, fields))[-1]["response"]["usage"])
    length = told[0]["input_tokens"]
    assert {usage["input_tokens"] for usage in told} == {length} and length > 32
    cached = [usage["input_tokens_details"]["cached_tokens"] for usage in told]
    assert cached == [0, length // 16 * 16, length // 16 * 16]


async def test_an_empty_answer_has_no_items() -> None:
    async with started(says("")) as router:
        _, body, _ = await post(router, {})
        events = await stream(router, {})
    assert body["output"] == [] and body["status"] == "completed"
    assert comparable(read(events)) == comparable(body)
    assert [event["type"] for event in events] == [*TEXT_EVENTS[:2], "response.completed"]


@pytest.mark.parametrize("streaming", [False, True])
async def test_errors(streaming: bool) -> None:
    async def error(fields: dict[str, Any]) -> tuple[int, str, str | None]:
        status, body, _ = await post(router, fields | {"stream": streaming})
        assert list(body) == ["error"] and body["error"]["message"]
        return status, body["error"]["code"], body["error"]["param"]

    async with started(max_concurrent_requests=1, max_input_length=30, max_total_tokens=40) as router:
        assert await error({"max_output_tokens": 0}) == (400, "validation", "max_output_tokens")
        assert await error({"input": [{"content": "x"}]}) == (400, "validation", "input[0]")
        assert await error({"input": [{"role": "critic", "content": "x"}]}) == (422, "template_error", None)
        assert await error({"input": "z" * 40}) == (400, "context_length_exceeded", "input")
        assert await error({"max_output_tokens": 30}) == (400, "context_length_exceeded", "input")
        with router.engine.permit():
            assert (await error({}))[:2] == (429, "overloaded")
    async with started(template=None) as router:
        assert (await error({}))[:2] == (422, "template_error")


async def test_failures() -> None:
    async with started() as router:
        router.shards.model.failures[0] = "out of memory"
        status, body, _ = await post(router, {})
        assert (status, body["error"]["code"]) == (500, "generation")
        router.shards.model.failures[1] = "out of memory"
        *_, failure = await stream(router, {})
        EVENT.validate_python(failure)
        assert failure["type"] == "response.failed" and failure["response"]["status"] == "failed"
        assert failure["response"]["error"] == {"code": "server_error", "message": body["error"]["message"]}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_nothing_is_kept(method: str) -> None:
    async with started(says("!")) as router:
        _, body, _ = await post(router, {})
        ask = getattr(router.app.test_client(), method.lower())
        response = await ask(f"{RESPONSES}/{body['id']}")
        assert response.status_code == 404
        assert "not kept" in (await response.get_json())["error"]["message"]


async def test_texts_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    secret = "Zanzibar"
    fields = {
        "input": secret,
        "instructions": secret,
        "tools": [{"type": "function", "name": "f", "description": secret}],
        "text": {"format": {"type": "json_schema", "name": secret, "schema": {"title": secret}}},
        "metadata": {secret: secret},
        "user": secret,
        "prompt_cache_key": secret,
    }
    with caplog.at_level("INFO"):
        async with started(says("{}")) as router:
            assert (await post(router, fields))[0] == 200
            assert (await post(router, fields | {"previous_response_id": secret}))[0] == 400
    told = [str(record.__dict__) for record in caplog.records]
    assert any("Success" in text for text in told) and secret not in "".join(told)
