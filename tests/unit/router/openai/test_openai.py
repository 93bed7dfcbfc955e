import json
from typing import Any

import pytest

from tests.router_app import Router, says, started
from tgi_server import __version__
from tgi_server.config.schema import Resolved

TEXT = "Paris is the capital of France, été 😀."
HELLO = [{"role": "user", "content": "hello"}]


async def post(router: Router, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
    response = await router.app.test_client().post(path, json=body)
    text = await response.get_data(as_text=True)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return response.status_code, json.loads(text) if "json" in headers["content-type"] else text, headers


async def stream(router: Router, path: str, body: Any) -> list[Any]:
    """The chunks of a stream, which has to end with `[DONE]`."""
    status, text, headers = await post(router, path, body | {"stream": True})
    assert status == 200 and headers["content-type"] == "text/event-stream" and headers["x-accel-buffering"] == "no"
    *blocks, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


async def test_chat() -> None:
    async with started(says(TEXT), model_id="served", resolved=Resolved(docker_label="image")) as router:
        status, body, headers = await post(router, "/v1/chat/completions", {"model": "any", "messages": HELLO})
    assert status == 200 and "x-total-time" in headers
    assert list(body) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert body["system_fingerprint"] == f"{__version__}-image"
    assert body["id"].startswith("chatcmpl-") and body["object"] == "chat.completion" and body["model"] == "served"
    (choice,) = body["choices"]
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    assert choice == {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert str(usage["prompt_tokens"]) == headers["x-prompt-tokens"]


async def test_chat_stream() -> None:
    async with started(says(TEXT)) as router:
        chunks = await stream(router, "/v1/chat/completions", {"messages": HELLO})
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk" and "usage" not in chunks[0]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
    assert "".join(choice["delta"]["content"] for choice in choices) == TEXT
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert {choice["index"] for choice in choices} == {0}


async def test_stream_usage() -> None:
    async with started(says(TEXT), prefix_caching=False) as router:
        for path, prompt in (("/v1/chat/completions", {"messages": HELLO}), ("/v1/completions", {"prompt": "hello"})):
            body = prompt | {"max_tokens": 3, "temperature": 0}
            _, whole, _ = await post(router, path, body)
            chunks = await stream(router, path, body | {"stream_options": {"include_usage": True}})
            assert [chunk["usage"] for chunk in chunks] == [None] * 3 + [whole["usage"]]
            assert chunks[-1]["choices"] == []
            both = {"include_usage": True, "continuous_usage_stats": True}
            chunks = await stream(router, path, body | {"stream_options": both})
            assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]


async def test_completion() -> None:
    async with started(says(TEXT)) as router:
        status, body, _ = await post(router, "/v1/completions", {"prompt": "hello", "max_tokens": 2})
        assert status == 200 and body["id"].startswith("cmpl-") and body["object"] == "text_completion"
        assert body["choices"] == [{"index": 0, "text": "Paris is", "logprobs": None, "finish_reason": "length"}]
        chunks = await stream(router, "/v1/completions", {"prompt": "hello", "max_tokens": 2})
        assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Paris", " is"]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "length"]
        assert {chunk["object"] for chunk in chunks} == {"text_completion"}


async def test_stop_is_left_out() -> None:
    async with started(says(TEXT)) as router:
        for stop in ("capi", ["nowhere", "capi"]):
            body = {"messages": HELLO, "stop": stop}
            _, whole, _ = await post(router, "/v1/chat/completions", body)
            assert whole["choices"][0]["message"]["content"] == "Paris is the "
            assert whole["choices"][0]["finish_reason"] == "stop"
            chunks = await stream(router, "/v1/chat/completions", body)
            assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "Paris is the "


async def test_chat_logprobs() -> None:
    body = {"messages": HELLO, "logprobs": True, "top_logprobs": 2}
    async with started(says(TEXT)) as router:
        _, whole, _ = await post(router, "/v1/chat/completions", body)
        chunks = await stream(router, "/v1/chat/completions", body)
        _, plain, _ = await post(router, "/v1/chat/completions", {"messages": HELLO, "logprobs": True})
    content = whole["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == TEXT
    assert b"".join(bytes(token["bytes"]) for token in content) == TEXT.encode()
    assert {token["logprob"] for token in content} == {-0.5}
    assert [len(token["top_logprobs"]) for token in content] == [2] * len(content)
    assert [token for chunk in chunks for token in chunk["choices"][0]["logprobs"]["content"]] == content
    assert {len(token["top_logprobs"]) for token in plain["choices"][0]["logprobs"]["content"]} == {0}


async def test_completion_logprobs() -> None:
    async with started(says(TEXT)) as router:
        body = {"prompt": "x", "logprobs": 2, "max_tokens": 3}
        _, whole, _ = await post(router, "/v1/completions", body)
        logprobs = whole["choices"][0]["logprobs"]
        assert logprobs["tokens"] == ["Paris", " is", " the"] and logprobs["text_offset"] == [0, 5, 8]
        assert logprobs["token_logprobs"] == [-0.5] * 3 and [len(top) for top in logprobs["top_logprobs"]] == [2] * 3
        chunks = await stream(router, "/v1/completions", body)
        assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[0], [5], [8]]
        _, whole, _ = await post(router, "/v1/completions", body | {"logprobs": 0})
        assert whole["choices"][0]["logprobs"]["top_logprobs"] == [{}, {}, {}]


async def test_token_prompts_and_ignored_end() -> None:
    async with started(says("!")) as router:
        body = {"prompt": [5, 6, 7], "ignore_eos": True, "max_tokens": 6}
        _, whole, _ = await post(router, "/v1/completions", body)
        usage = {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
        details = {"completion_tokens_details": {"reasoning_tokens": 0}, "prompt_tokens_details": {"cached_tokens": 0}}
        assert whole["usage"] == usage | details
        assert whole["choices"][0]["text"] == "!!!"


async def test_usage_tells_what_was_cached_of_each_prompt() -> None:
    async with started(says("!")) as router:
        prompts = [[*range(40)], [*range(50, 150)], [*range(40)]]
        body = {"prompt": prompts, "max_tokens": 1, "n": 2}
        cached = []
        for _ in range(2):
            _, whole, _ = await post(router, "/v1/completions", body)
            assert whole["usage"]["prompt_tokens"] == 180
            cached.append(whole["usage"]["prompt_tokens_details"]["cached_tokens"])
        streamed = await stream(router, "/v1/completions", body | {"stream_options": {"include_usage": True}})
        cached.append(streamed[-1]["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached == [32, 160, 160], "the third prompt is the first; six of its texts are computed once"
    async with started(says("!"), prefix_caching=False) as router:
        for _ in range(2):
            _, whole, _ = await post(router, "/v1/completions", body)
            assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {}, None),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}, "messages[0]"),
        ("/v1/chat/completions", {"messages": HELLO, "n": 129}, "n"),
        ("/v1/chat/completions", {"messages": HELLO, "temperature": "1"}, "temperature"),
        ("/v1/completions", {"prompt": ["a", 5]}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": ["a", ""]}, "prompt"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 9999}, "prompt"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
async def test_client_errors(path: str, body: dict[str, Any], param: str | None, streaming: bool) -> None:
    async with started() as router:
        status, answer, _ = await post(router, path, body | {"stream": streaming})
    assert status == 400 and list(answer) == ["error"]
    error = answer["error"]
    assert list(error) == ["message", "type", "param", "code"] and error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


LONG = [{"role": "user", "content": "z" * 30}]
CONTEXT = "Input validation error: This model's maximum context length is 40 tokens"
TOO_LONG: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "/v1/chat/completions",
        {"messages": LONG, "max_tokens": 9},
        "messages",
        f"{CONTEXT}. However, 55 tokens are asked for: 46 for the prompt and 9 for the answer",
    ),
    (
        "/v1/chat/completions",
        {"messages": LONG},
        "messages",
        f"{CONTEXT}, 20 of them for the prompt. However, the prompt has 46 tokens",
    ),
    (
        "/v1/completions",
        {"prompt": "z" * 21, "max_tokens": 1},
        "prompt",
        f"{CONTEXT}, 20 of them for the prompt. However, the prompt has 21 tokens",
    ),
    (
        "/v1/completions",
        {"prompt": [5] * 4, "max_tokens": 37},
        "prompt",
        f"{CONTEXT}. However, 41 tokens are asked for: 4 for the prompt and 37 for the answer",
    ),
]


@pytest.mark.parametrize(("path", "body", "param", "message"), TOO_LONG)
async def test_what_is_too_long_is_told_as_clients_know_it(
    path: str, body: dict[str, Any], param: str, message: str
) -> None:
    async with started(max_input_length=20, max_total_tokens=40, max_batch_prefill_tokens=20) as router:
        for streaming in (False, True):
            status, answer, _ = await post(router, path, body | {"stream": streaming})
            expected = {"type": "invalid_request_error", "param": param, "code": "context_length_exceeded"}
            assert (status, answer["error"]) == (400, {"message": message} | expected)


async def test_unreadable_bodies_and_unknown_paths() -> None:
    async with started() as router:
        client = router.app.test_client()
        for data, kind in ((b"{", "application/json"), (b"{}", "text/plain")):
            response = await client.post("/v1/completions", data=data, headers={"content-type": kind})
            assert response.status_code == 400 and (await response.get_json())["error"]["message"]
        response = await client.get("/v1/nothing")
        assert response.status_code == 404 and (await response.get_json())["error"]["message"]


async def test_overload_and_failures() -> None:
    async with started(max_concurrent_requests=1) as router:
        body = {"prompt": "x"}
        with router.engine.permit():
            for streaming in (False, True):
                status, answer, _ = await post(router, "/v1/completions", body | {"stream": streaming})
                assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
        router.shards.model.failures[0] = "out of memory"
        status, answer, _ = await post(router, "/v1/completions", body)
        assert (status, answer["error"]["type"], answer["error"]["code"]) == (500, "server_error", "generation")
        router.shards.model.failures[1] = "out of memory"
        (chunk,) = await stream(router, "/v1/completions", body)
        assert chunk == answer
        router.engine.begin_drain()
        status, answer, _ = await post(router, "/v1/completions", body)
        assert (status, answer["error"]["type"]) == (503, "server_error")


async def test_a_model_without_template_serves_everything_else() -> None:
    async with started(template=None) as router:
        status, answer, _ = await post(router, "/v1/chat/completions", {"messages": HELLO})
        assert status == 422 and answer["error"]["code"] == "template_error"
        assert router.metric('tgi_request_failure{err="template"}') == 1
        assert (await post(router, "/v1/completions", {"prompt": "x"}))[0] == 200


async def test_what_a_template_says_is_a_422() -> None:
    async with started() as router:
        for streaming in (False, True):
            body = {"messages": [{"role": "critic", "content": "x"}], "stream": streaming}
            status, answer, _ = await post(router, "/v1/chat/completions", body)
            assert (status, answer["error"]["message"]) == (422, "Template error: no critics here")
            assert answer["error"]["type"] == "invalid_request_error"


async def test_models() -> None:
    async with started(model_id="served") as router:
        response = await router.app.test_client().get("/v1/models")
        body = await response.get_json()
        named = await router.app.test_client().get("/v1/models/served")
        other = await router.app.test_client().get("/v1/models/org/other")
        assert await named.get_json() == body["data"][0]
        assert other.status_code == 404 and (await other.get_json())["error"]["code"] == "model_not_found"
    assert body["object"] == "list"
    assert [(model["id"], model["object"]) for model in body["data"]] == [("served", "model")]
