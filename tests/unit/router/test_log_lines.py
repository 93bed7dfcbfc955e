"""What is logged of requests: one line each, with times and an id, and nothing of what clients wrote."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.canaries import BODIES, CANARY, KEY, everywhere, requests
from tests.router_app import TEMPLATE, Router, started
from tests.unit.router.native.test_native import post
from tgi_server.router.http.wire import Body
from tgi_server.telemetry.logging import JsonFormatter, TextFormatter

JSON = {"content-type": "application/json"}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def spans(lines: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of the lines of requests."""
    return [record.span for record in lines.records if hasattr(record, "span")]


async def ask(router: Router, method: str, path: str, data: bytes, **headers: str) -> Any:
    headers = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    client = router.app.test_client()
    response = await (client.post if method == "POST" else client.get)(path, data=data or None, headers=headers)
    return response, await response.get_data(as_text=True)


async def test_a_line_for_every_request_and_nothing_of_what_clients_wrote(lines: pytest.LogCaptureFixture) -> None:
    quoting = TEMPLATE.replace("raise_exception(", "raise_exception(message['content'] + ")
    async with started(api_key=KEY, template=quoting) as router:
        for method, path, data, status in requests():
            before = len(spans(lines))
            response, text = await ask(router, method, path, data, x_api_key=KEY)
            assert response.status_code == (status or response.status_code), (path, data, text)
            (span,) = spans(lines)[before:]
            assert float(span["total_time"].rstrip("s")) >= 0 and span["request_id"], (path, data)
            streamed = response.content_type.startswith("text/event-stream")  # what is wrong is told in an event
            assert span["status"] == response.status_code or streamed, (path, data)
        await ask(router, "POST", "/generate", b"{}", authorization=f"Bearer {CANARY}")
    assert spans(lines)[-1]["status"] == 401
    nothing_is_told(lines)


def nothing_is_told(lines: pytest.LogCaptureFixture) -> None:
    for record in lines.records:
        for formatter in (TextFormatter("router"), JsonFormatter("router")):
            assert CANARY not in formatter.format(record)
        assert record.levelno < logging.ERROR and record.exc_info is None


async def test_no_field_of_any_body_is_told_that_takes_a_text(lines: pytest.LogCaptureFixture) -> None:
    asked = list(everywhere())
    parsed = 0
    async with started(max_total_tokens=120, max_input_length=100) as router:
        for method, path, data, _ in asked:
            before = len(spans(lines))
            response, text = await ask(router, method, path, data)
            assert response.status_code != 500, (path, data, text)
            assert len(spans(lines)) == before + 1, (path, data)
            parsed += "parameters" in spans(lines)[-1]
    assert len(asked) > 100 and parsed > len(asked) / 4
    fields = {(path, name) for _, path, data, _ in asked for name in json.loads(data)}
    assert ("/v1/chat/completions", "reasoning_effort") in fields and ("/v1/messages", "model") in fields
    nothing_is_told(lines)


def kinds(kind: type[Body]) -> Iterator[type[Body]]:
    for each in kind.__subclasses__():
        yield each
        yield from kinds(each)


def test_canaries_know_all_bodies() -> None:
    parts = {"Parameters", "OpenAIBody"}
    assert {kind.__name__ for kind in kinds(Body) if kind.__module__.startswith("tgi_server.")} == parts | {
        kind.__name__ for kind in BODIES.values()
    }


async def test_probes_leave_no_line(lines: pytest.LogCaptureFixture) -> None:
    async with started() as router:
        for path in ("/health", "/ping", "/", "/metrics", "/info", "/docs"):
            response, _ = await ask(router, "GET", path, b"")
            assert response.status_code < 400 and "x-request-id" not in response.headers
    assert not spans(lines)


async def test_the_line_of_a_success(lines: pytest.LogCaptureFixture) -> None:
    async with started() as router:
        await post(router, "/generate", {"inputs": "the fox", "parameters": {"max_new_tokens": 3, "seed": 4}})
    (span,) = spans(lines)
    times = ["total_time", "validation_time", "queue_time", "inference_time", "time_per_token"]
    assert list(span)[:5] == times and all(span[name].endswith("s") for name in times)
    assert span["status"] == 200 and span["generated_tokens"] == 3 and span["prompt_tokens"] > 0
    assert span["finish_reason"] == "length" and span["parameters"] == {"max_new_tokens": 3, "seed": 4}
    assert span["route"] == "/generate"


@pytest.mark.parametrize(
    ("path", "data", "status", "words"),
    [
        ("/generate", b'{"inputs": ""}', 422, "`inputs` cannot be empty"),
        ("/v1/completions", b'{"prompt": ""}', 400, "`prompt` cannot be empty"),
        ("/generate", b"{", 400, "Failed to parse the request body as JSON"),
        ("/generate", b'{"inputs": 1}', 422, "inputs: Expected `str`, got `int`"),
        ("/nowhere", b"", 404, "Not Found"),
    ],
)
async def test_the_line_of_a_refusal_has_the_reason(
    lines: pytest.LogCaptureFixture, path: str, data: bytes, status: int, words: str
) -> None:
    async with started() as router:
        await ask(router, "POST", path, data)
    (record,) = (record for record in lines.records if hasattr(record, "span"))
    assert record.levelno == logging.INFO and words in record.getMessage()
    assert spans(lines)[0]["status"] == status


async def test_a_failed_shard_is_an_error(lines: pytest.LogCaptureFixture) -> None:
    async with started() as router:
        router.shards.model.failures[0] = "out of memory"
        await post(router, "/v1/completions", {"prompt": "x"})
    (record,) = (record for record in lines.records if hasattr(record, "span"))
    assert record.levelno == logging.ERROR and "out of memory" in record.getMessage()
    assert spans(lines)[0]["status"] == 500


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_a_defect_is_the_end_of_its_request(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def generate(*given: Any, **named: Any) -> None:
        raise RuntimeError(CANARY)

    async with started() as router:
        monkeypatch.setattr(router.engine, "generate", generate)
        response, _ = await ask(
            router, "POST", path, b'{"inputs": "x", "prompt": "x", "stream": true}', x_request_id="known"
        )
        assert response.status_code == 500
        (record,) = (record for record in lines.records if hasattr(record, "span"))
        assert record.levelno == logging.ERROR and "RuntimeError" in record.getMessage()
        assert CANARY not in record.getMessage()
        (span,) = spans(lines)
        assert (span["status"], span["request_id"], span["route"]) == (500, "known", path)
        assert router.metric("tgi_request_count") == 1
        assert router.metric('tgi_request_failure{err="incomplete"}') == 1
        assert any(record.exc_info for record in lines.records), "where it was is told as well"


async def test_a_defect_after_the_last_token_is_no_second_end(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started() as router:
        monkeypatch.setattr("tgi_server.router.http.answering.headers", lambda *given: 1 / 0)
        response, _ = await ask(router, "POST", "/v1/completions", b'{"prompt": "x"}')
        assert response.status_code == 500 and len(spans(lines)) == 1
        assert router.metric("tgi_request_success") == 1
        assert router.metric('tgi_request_failure{err="incomplete"}') == 0


@pytest.mark.parametrize("given", ["abc-123", "x" * 128])
async def test_the_id_of_the_caller_is_kept(lines: pytest.LogCaptureFixture, given: str) -> None:
    async with started() as router:
        for path in ("/generate", "/generate_stream", "/v1/messages", "/nowhere"):
            response, _ = await ask(router, "POST", path, b'{"inputs": "x"}', x_request_id=given)
            assert response.headers["x-request-id"] == given
            assert spans(lines)[-1]["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "é", "a\x1b[2J"])
async def test_an_id_that_may_do_harm_is_not(lines: pytest.LogCaptureFixture, given: str) -> None:
    async with started() as router:
        response, _ = await ask(router, "POST", "/generate", b'{"inputs": "x"}', x_request_id=given)
    assert response.headers["x-request-id"].startswith("req_")
    assert spans(lines)[0]["request_id"] == response.headers["x-request-id"]
