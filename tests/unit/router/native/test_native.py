import json
from typing import Any

import pytest

from tests.router_app import EOS_ID, Router, says, started
from tgi_server.config.schema import Resolved
from tgi_server.router.native import rendering

TEXT = "Paris is the capital of France, été 😀."


async def post(router: Router, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
    response = await router.app.test_client().post(path, json=body)
    text = await response.get_data(as_text=True)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return response.status_code, json.loads(text) if "json" in headers["content-type"] else text, headers


def events(text: str) -> list[Any]:
    """The events of a stream; everything but `data: JSON` and one blank line each is an error."""
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


async def test_generate() -> None:
    async with started(says(TEXT)) as router:
        status, body, headers = await post(router, "/generate", {"inputs": "hé", "parameters": {}})
        assert (status, body) == (200, {"generated_text": TEXT})
        assert headers["x-compute-type"] == "1-cpu" and headers["x-compute-characters"] == "2"
        assert headers["x-prompt-tokens"] == "2" and int(headers["x-generated-tokens"]) > 10
        for name in ("compute-time", "total-time", "validation-time", "queue-time", "inference-time", "time-per-token"):
            assert headers[f"x-{name}"].isdigit()


async def test_details() -> None:
    async with started(says("Paris.")) as router:
        parameters = {"details": True, "decoder_input_details": True, "top_n_tokens": 2, "seed": 5, "do_sample": True}
        _, body, _ = await post(router, "/generate", {"inputs": "the fox", "parameters": parameters})
    details = body["details"]
    assert list(details) == ["finish_reason", "generated_tokens", "seed", "prefill", "tokens", "top_tokens"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("eos_token", 3, 5)
    assert [list(token) for token in details["prefill"]] == [["id", "text", "logprob"]] * len(details["prefill"])
    assert details["prefill"][0]["logprob"] is None and details["prefill"][1]["logprob"] == -1.0
    assert "".join(token["text"] for token in details["prefill"]) == "the fox"
    assert details["tokens"][-1] == {"id": EOS_ID, "text": "<|end|>", "logprob": -0.5, "special": True}
    assert "".join(token["text"] for token in details["tokens"] if not token["special"]) == body["generated_text"]
    assert [len(top) for top in details["top_tokens"]] == [2, 2, 2]


async def test_details_only_where_asked_for() -> None:
    async with started(says("Paris.")) as router:
        _, body, _ = await post(router, "/generate", {"inputs": "x", "parameters": {"top_n_tokens": 2}})
        assert list(body) == ["generated_text"]
        _, body, _ = await post(router, "/generate", {"inputs": "x", "parameters": {"decoder_input_details": True}})
        assert "top_tokens" not in body["details"] and len(body["details"]["prefill"]) == 1
        _, body, _ = await post(router, "/generate", {"inputs": "x", "parameters": {"details": True}})
        assert body["details"]["prefill"] == [] and body["details"]["seed"] is None


async def test_full_text_is_the_whole_input() -> None:
    parameters = {"return_full_text": True, "truncate": 1}
    async with started(says("!")) as router:
        for path in ("/generate", "/"):
            _, body, headers = await post(router, path, {"inputs": "the fox", "parameters": parameters})
            assert (body[0] if path == "/" else body)["generated_text"] == "the fox!"
            assert headers["x-prompt-tokens"] == "1"
        _, text, _ = await post(router, "/generate_stream", {"inputs": "the fox", "parameters": parameters})
        assert events(text)[-1]["generated_text"] == "the fox!"


async def test_stop_sequences_stay_in_the_text() -> None:
    async with started(says(TEXT)) as router:
        parameters = {"stop": ["capi"], "details": True}
        _, body, _ = await post(router, "/generate", {"inputs": "x", "parameters": parameters})
        assert body["generated_text"] == "Paris is the capi"
        assert body["details"]["finish_reason"] == "stop_sequence"


async def test_no_parameters_means_sampling() -> None:
    async with started() as router:
        for body in ({"inputs": "x"}, {"inputs": "x"}, {"inputs": "x", "parameters": {}}):
            assert (await post(router, "/generate", body))[0] == 200
        sampling = [new.sampling for plan in router.shards.plans for new in plan.new]
    assert [one.do_sample for one in sampling] == [True, True, False]
    assert sampling[0].seed != sampling[1].seed


async def test_stream() -> None:
    async with started(says(TEXT)) as router:
        body = {"inputs": "hé", "parameters": {"details": True, "top_n_tokens": 1}}
        status, text, headers = await post(router, "/generate_stream", body)
    assert status == 200 and headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache" and headers["x-accel-buffering"] == "no"
    assert headers["x-compute-characters"] == "2" and "x-total-time" not in headers
    all_events = events(text)
    assert [event["index"] for event in all_events] == list(range(1, len(all_events) + 1))
    assert {tuple(event) for event in all_events} == {("index", "token", "top_tokens", "generated_text", "details")}
    *first, last = all_events
    assert all(event["generated_text"] is None and event["details"] is None for event in first)
    assert last["generated_text"] == TEXT and last["token"]["special"]
    assert last["details"] == {"finish_reason": "eos_token", "generated_tokens": len(all_events), "seed": None}
    assert "".join(event["token"]["text"] for event in first) == TEXT


async def test_stream_without_details_or_alternatives() -> None:
    async with started(says(TEXT)) as router:
        _, text, _ = await post(router, "/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": 2}})
    assert [list(event) for event in events(text)] == [["index", "token", "generated_text", "details"]] * 2
    assert events(text)[-1]["details"] is None and not text.endswith("[DONE]\n\n")


async def test_root_answers_a_list_or_a_stream() -> None:
    async with started(says("Paris.")) as router:
        status, body, headers = await post(router, "/", {"inputs": "x", "parameters": {}})
        assert (status, body) == (200, [{"generated_text": "Paris."}]) and "x-total-time" in headers
        _, text, headers = await post(router, "/", {"inputs": "x", "parameters": {}, "stream": True})
        assert headers["content-type"] == "text/event-stream" and events(text)[-1]["generated_text"] == "Paris."
        status, body, _ = await post(router, "/", {"inputs": ""})
        assert (status, body["error_type"]) == (422, "validation")


@pytest.mark.parametrize("path", ["/", "/invocations"])
@pytest.mark.parametrize(("tag", "asked", "whole"), [
    ("text-generation", {}, True), ("text-generation", {"return_full_text": None}, True),
    ("text-generation", {"return_full_text": False}, False), ("text2text-generation", {}, False),
    (None, {}, False), (None, {"return_full_text": True}, True),
])  # fmt: skip
async def test_what_the_hub_says_a_model_is_for(path: str, tag: str | None, asked: Any, whole: bool) -> None:
    async with started(says("!"), resolved=Resolved(pipeline_tag=tag)) as router:
        body = {"inputs": "the fox", "parameters": asked}
        expected = "the fox!" if whole else "!"
        assert (await post(router, path, body))[1] == [{"generated_text": expected}]
        _, text, _ = await post(router, path, body | {"stream": True})
        assert events(text)[-1]["generated_text"] == expected
        for other in ("/generate", "/generate_stream"):
            _, told, _ = await post(router, other, {"inputs": "the fox", "parameters": {}})
            last = told if other == "/generate" else events(told)[-1]
            assert last["generated_text"] == "!"


@pytest.mark.parametrize(("tag", "bodies", "told"), [
    (None, [{"parameters": {}}, {"parameters": {}}, {"parameters": {"return_full_text": True}}], 1), (None, [{}], 1),
    (None, [{"parameters": {"return_full_text": False}}], 0), ("text2text-generation", [{}], 0),
])  # fmt: skip
async def test_an_unknown_purpose_is_told_when_an_answer_depends_on_it(
    tag: str | None, bodies: list[Any], told: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(says("!"), resolved=Resolved(pipeline_tag=tag)) as router:
        for path in ("/generate", "/generate_stream"):
            await post(router, path, {"inputs": "x", "parameters": {}})
        assert not caplog.messages
        for body in bodies:
            for path in ("/", "/invocations"):
                assert (await post(router, path, {"inputs": "x"} | body))[0] == 200
    assert len([line for line in caplog.messages if "pipeline tag" in line and "return_full_text" in line]) == told


async def test_invocations_may_be_chats() -> None:
    chat = {"messages": [{"role": "user", "content": "x"}]}
    async with started(says("Paris."), messages_api_enabled=True, payload_limit=100) as router:
        _, body, headers = await post(router, "/invocations", chat)
        assert body["object"] == "chat.completion" and "x-total-time" in headers
        assert body["choices"][0]["message"]["content"] == "Paris."
        _, text, _ = await post(router, "/invocations", chat | {"stream": True})
        assert text.endswith("data: [DONE]\n\n")
        for wrong, status in (({"inputs": "x"}, 400), (chat | {"temperature": -1}, 400), ("x" * 101, 413)):
            answered, body, _ = await post(router, "/invocations", wrong)
            assert answered == status and set(body["error"]) == {"message", "type", "param", "code"}
        response = await router.app.test_client().get("/invocations")
        assert response.status_code == 405 and "error" in await response.get_json()
        assert (await post(router, "/", {"inputs": "x", "parameters": {}}))[1] == [{"generated_text": "Paris."}]


async def test_compute_type_is_an_option() -> None:
    async with started(compute_type="2-fast", resolved=Resolved(compute_type="1-slow")) as router:
        for path in ("/generate", "/generate_stream", "/"):
            assert (await post(router, path, {"inputs": "x"}))[2]["x-compute-type"] == "2-fast"
    async with started(resolved=Resolved(compute_type="1-slow")) as router:
        assert (await post(router, "/generate", {"inputs": "x"}))[2]["x-compute-type"] == "1-slow"


async def test_refused_requests_are_counted() -> None:
    async with started(max_concurrent_requests=1) as router:
        for path in ("/generate", "/generate_stream"):
            await post(router, path, {"inputs": "x", "parameters": {"temperature": 0}})
            await post(router, path, {"inputs": "x", "parameters": {"best_of": 3}})
        assert router.metric('tgi_request_failure{err="validation"}') == router.metric("tgi_request_count") == 4
        with router.engine.permit():
            for path in ("/generate", "/generate_stream"):
                await post(router, path, {"inputs": "x"})
        assert router.metric('tgi_request_failure{err="overloaded"}') == 2
        assert router.metric("tgi_request_count") == 6 and router.metric("tgi_request_success") == 0


async def test_requests_that_no_batch_can_hold() -> None:
    async with started(num_blocks=4) as router:
        status, body, _ = await post(router, "/generate", {"inputs": "x", "parameters": {"max_new_tokens": 100}})
        assert (status, body["error_type"]) == (422, "validation") and "64" in body["error"]


async def test_a_failing_shard() -> None:
    async with started() as router:
        router.shards.model.failures[0] = "out of memory"
        status, body, headers = await post(router, "/generate", {"inputs": "x"})
        assert (status, body["error_type"]) == (424, "generation")
        assert [name for name in headers if name[0] == "x"] == ["x-request-id"]
        assert body["error"] == "Request failed during generation: out of memory"
        router.shards.model.failures[1] = "out of memory"
        _, text, _ = await post(router, "/generate_stream", {"inputs": "x"})
        assert events(text) == [body]
        assert router.metric('tgi_request_failure{err="generation"}') == 2
        assert (await post(router, "/generate", {"inputs": "x"}))[0] == 200


async def test_tokenize() -> None:
    async with started() as router:
        text = "été 😀<|end|>"
        status, tokens, _ = await post(router, "/tokenize", {"inputs": text})
        assert status == 200 and [list(token) for token in tokens] == [["id", "text", "start", "stop"]] * len(tokens)
        assert all(text[token["start"] : token["stop"]] == token["text"] for token in tokens)
        _, last, _ = await post(router, "/tokenize", {"inputs": text, "parameters": {"truncate": 1}})
        assert last == tokens[-1:]
        assert (await post(router, "/tokenize", {"inputs": ""}))[1] == []


async def test_requests_are_counted() -> None:
    async with started(says("Paris.")) as router:
        await post(router, "/generate", {"inputs": "the fox", "parameters": {}})
        await post(router, "/generate_stream", {"inputs": "the fox", "parameters": {}})
        assert router.metric("tgi_request_count") == router.metric("tgi_request_success") == 2
        for name in ("duration", "validation_duration", "queue_duration", "inference_duration"):
            assert router.metric(f"tgi_request_{name}_count") == 2
        assert router.metric("tgi_request_mean_time_per_token_duration_count") == 2
        assert router.metric("tgi_request_generated_tokens_sum") == 6
        assert router.metric("tgi_request_max_new_tokens_sum") == 200
        assert router.metric("tgi_request_input_length_count") == 2


def test_a_list_written_in_pieces_is_the_same_list() -> None:
    for length in (0, 1, 3, 7):
        items = [{"id": number} for number in range(length)]
        assert json.loads(rendering.joined(items, piece=3)) == items
