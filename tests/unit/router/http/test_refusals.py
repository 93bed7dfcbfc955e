"""A request that finds no place gets the answer that it always got, whoever gives it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.collector import attributes, collecting
from tests.integration.listening import listening, until
from tests.router_app import Router, says
from tests.unit.router.native.test_native import post
from tests.unit.router.test_log_lines import spans
from tgi_server.engine.engine import Engine

SAID = [{"role": "user", "content": "x"}]
FEW = {"max_new_tokens": 2}
GENERATING: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"inputs": "x"}),
    ("/generate", {"inputs": "", "parameters": {"best_of": 2, "do_sample": True}}),
    ("/generate_stream", {"inputs": "été", "parameters": FEW}),
    ("/", {"inputs": "x", "parameters": FEW}),
    ("/", {"inputs": "xyz", "parameters": FEW, "stream": True}),
    ("/invocations", {"inputs": "x", "stream": True}),
    ("/v1/completions", {"prompt": "x", "n": 2}),
    ("/v1/completions", {"prompt": "x", "stream": True}),
    ("/v1/chat/completions", {"messages": SAID}),
    ("/v1/chat/completions", {"messages": SAID, "stream": True}),
    ("/v1/messages", {"messages": SAID, "max_tokens": 3}),
    ("/v1/messages", {"messages": SAID, "max_tokens": 3, "stream": True}),
    ("/v1/responses", {"input": "x"}),
    ("/v1/responses", {"input": "x", "stream": True}),
]
KEY = "sk-key"
HEADERS = {"host": "x", "content-type": "application/json", "x-api-key": KEY, "x-request-id": "mine"}


def request(path: str, body: Any, method: str = "POST", /, close: bool = True, **headers: str) -> bytes:
    """Its bytes; a body that is none of JSON is sent as it is."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = HEADERS | {"content-length": str(len(data))} | {name.replace("_", "-"): headers[name] for name in headers}
    told |= {"connection": "close"} if close else {}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items() if value), "\r\n"]
    return "\r\n".join(lines).encode() + data


WELL: list[bytes] = [
    *(request(path, body) for path, body in GENERATING),
    request("/generate", {"inputs": "x"}, origin="https://a.example"),
    request("/generate?x=1", {"inputs": "x"}, x_api_key="", authorization=f"bearer {KEY}"),
    request("/generate", {"inputs": "x"}, content_type="application/vnd.a+json; charset=utf-8"),
]
"""Nothing is wrong with these."""
WRONG: list[bytes] = [
    request("/generate", {"inputs": "x"}, x_api_key="another"),
    request("/generate", {"inputs": "x"}, x_api_key="", authorization=f"Basic {KEY}"),
    request("/generate", {"inputs": "x"}, content_type="text/plain"),
    request("/v1/messages", {"messages": SAID}, content_encoding="gzip"),
    request("/generate", b'{"inputs": '),
    request("/v1/completions", b""),
    request("/v1/completions", {"prompt": 7.5}),
    request("/v1/completions", {"prompt": "x", "n": 0}),
    request("/v1/messages", {"messages": SAID}),
    request("/generate", {"inputs": "x", "parameters": {"best_of": 99}}),
    request("/generate_stream", {"inputs": "x", "parameters": {"best_of": 2}}),
    request("/generate", {"inputs": "x" * 3000}),
    request("/generate", {}, "GET"),
    request("/generate/", {"inputs": "x"}),
    request("/v1/chat/completions", {"messages": SAID}, "PUT"),
    request("/v1/chat/completions", b"", "OPTIONS", origin="https://a.example", access_control_request_method="POST"),
    request("/tokenize", {"inputs": "x"}),
    request("/v1/messages/count_tokens", {"messages": SAID}),
    request("/v1/models/none", b"", "GET"),
    request("/generate", b'e\r\n{"inputs":"x"}\r\n0\r\n\r\n', content_length="", transfer_encoding="chunked"),
]  # fmt: skip
"""These are not refused for lack of places, or not by their first bytes."""


async def asked(port: int, data: bytes) -> bytes:
    """All that the server says, but for the date."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return re.sub(rb"\r\ndate: [^\r]+", b"", answer)


@asynccontextmanager
async def full(**options: Any) -> AsyncIterator[tuple[Router, int, list[str], ExitStack]]:
    """A router without a free place, its port, the paths that the framework sees, and what holds the places."""
    given = {"max_concurrent_requests": 2, "payload_limit": 2000, "api_key": KEY} | options
    async with listening(choose=says("Paris."), **given) as (router, port):
        seen: list[str] = []
        inner = router.app.request_class

        class Seen(inner):  # type: ignore[valid-type, misc]  # which class that is, only Quart knows
            def __init__(self, method: str, scheme: str, path: str, *args: Any, **kwargs: Any) -> None:
                seen.append(path)
                super().__init__(method, scheme, path, *args, **kwargs)

        router.app.request_class = Seen
        with ExitStack() as held:
            for _ in range(2):
                held.enter_context(router.engine.permit())
            yield router, port, seen, held


def counted(router: Router) -> list[str]:
    """What is counted of requests and answers, without durations."""
    names = ("tgi_request_count", "tgi_request_success", "tgi_request_failure", "tgi_http_responses")
    return sorted(line for line in router.metrics.render().splitlines() if line.startswith(names))


Met = tuple[list[bytes], list[str], list[Any]]


async def met(data: list[bytes], caplog: pytest.LogCaptureFixture) -> tuple[Met, int]:
    """Answers, counters, log lines (at debug, too) and how many requests the framework saw."""
    caplog.clear()
    async with full() as (router, port, seen, _):
        answers = [await asked(port, each) for each in data]
        lines = [
            (record.levelname, record.getMessage(), record.span | {"total_time": None})
            for record in caplog.records
            if hasattr(record, "span")
        ]
        return (answers, counted(router), lines), len(seen)


@pytest.mark.parametrize("data", [WELL, WRONG], ids=["well", "wrong"])
async def test_what_clients_operators_and_logs_see_is_the_same(
    data: list[bytes], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    early, seen = await met(data, caplog)
    monkeypatch.setattr(Engine, "full", False)
    late, all_of_them = await met(data, caplog)
    for one, other in zip([*early[0], *early[1], *early[2]], [*late[0], *late[1], *late[2]], strict=True):
        assert one == other
    assert all_of_them == len(data) - sum(each.startswith(b"OPTIONS") for each in data)
    assert seen == (0 if data is WELL else all_of_them)
    if data is WELL:
        streams = [each for each in early[0] if each.startswith(b"HTTP/1.1 200 ")]
        assert all(b'"error_type":"overloaded"' in each and b"text/event-stream" in each for each in streams)
        assert len(streams) == 3 and all(b"\r\nx-request-id: mine\r\n" in each for each in early[0])
        assert all(each.startswith(b"HTTP/1.1 429 ") for each in early[0] if each not in streams)


async def test_many_lines_are_one_a_minute(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    async with full(api_key=None) as (router, _, _, _):
        for _ in range(5):
            await post(router, "/generate", {"inputs": "x"})
        monkeypatch.setattr("tgi_server.telemetry.seldom.SILENCE", 0.0)
        await post(router, "/v1/completions", {"prompt": "x"})
        assert [record.getMessage() for record in caplog.records if hasattr(record, "span")] == [
            "Failed: Model is overloaded",
            "Failed: Model is overloaded (5 since the last such line)",
        ]
        assert router.metric('tgi_request_failure{err="overloaded"}') == 6
        monkeypatch.undo()
        caplog.set_level(logging.DEBUG)
        await post(router, "/generate", {"inputs": "x"})
        assert (caplog.records[-1].levelno, spans(caplog)[-1]["status"]) == (logging.DEBUG, 429)


async def test_requests_sent_ahead_are_answered_in_order_on_one_connection() -> None:
    async with full(api_key=None) as (_, port, seen, held):
        first, second = (request("/v1/completions", {"prompt": "x"}, close=False, x_request_id=id) for id in "ab")
        answer = await asked(port, first + second + request("/v1/models", b"", "GET"))
        ids = re.findall(rb"x-request-id: (\w+)", answer)
        assert ids == [b"a", b"b", b"mine"] and answer.count(b"HTTP/1.1 429 ") == 2 and len(seen) == 1
        held.close()
        assert (await asked(port, request("/generate", {"inputs": "x"}))).startswith(b"HTTP/1.1 200 ")


async def test_a_place_that_gets_free_while_a_request_arrives_is_taken() -> None:
    async with full(api_key=None) as (_, port, seen, held):
        data = request("/generate", {"inputs": "x"})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data[:-5])
        await asyncio.sleep(0.05)
        held.close()
        writer.write(data[-5:])
        assert b'{"generated_text":"Paris."}' in await asyncio.wait_for(reader.read(), 5)
        assert seen == ["/generate"]
        writer.close()


async def test_a_client_that_leaves_before_its_request_is_there_is_no_request() -> None:
    async with full(api_key=None) as (router, port, seen, _):
        for cut in (5, 14):  # nothing of the body, and a part of it
            data = request("/generate", {"inputs": "x"}, content_length="900")
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data[:-cut])
            await asyncio.sleep(0.05)
            writer.close()
        await until(lambda: len(seen) == 2)
        assert router.metric("tgi_request_count") == router.metric('tgi_request_failure{err="overloaded"}') == 0


async def test_a_refused_request_leaves_its_trace() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with collecting() as collector:
        async with full(api_key=None, otlp_endpoint=collector.endpoint) as (_, port, seen, _):
            await asked(
                port,
                request(
                    "/v1/completions", {"prompt": "x", "stream": True}, traceparent=f"00-{trace}-00f067aa0ba902b7-01"
                ),
            )
        (span,) = collector.spans.values()
    told = attributes(span)
    assert (span.trace_id.hex(), told["error.type"], told["http.route"]) == (trace, "overloaded", "/v1/completions")
    assert told["gen_ai.request.stream"] is True and told["request_id"] == "mine"
    assert not collector.below(span) and not seen
