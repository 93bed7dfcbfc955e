"""What only clients of ill will, or of other habits, do to the port."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import socket
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.integration.listening import listening, send, until
from tests.router_app import started
from tgi_server.config.schema import NetworkOptions
from tgi_server.router.http.protocol import MAX_HEAD_BYTES
from tgi_server.router.main import Server

LONG: dict[str, Any] = {"inputs": "x", "parameters": {"max_new_tokens": 1500}}
SHORT: dict[str, Any] = {"inputs": "x", "parameters": {"max_new_tokens": 2}}
HEAD = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


async def healthy(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.post("/generate", json=SHORT)).status_code == 200


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"GET /health HTTP/1.1\r\nx: ", b"a" * 1000),
        (b"GET /health HTTP/1.1\r\n", b"x: a\r\n" * 100),
        (b"GET /", b"a" * 1000),
        (b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: a\r\n" * 100),
        (b"\r\n", b"\r\n" * 500),
    ],
)
async def test_a_head_without_end_is_refused(start: bytes, more: bytes) -> None:
    async with listening() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        await asyncio.sleep(0.05)
        for _ in range(MAX_HEAD_BYTES // len(more) + 1):
            writer.write(more)
            await asyncio.sleep(0)
        answers = (await asyncio.wait_for(reader.read(), 5)).split(b"HTTP/1.1 ")
        assert answers[-1].startswith(b"400 ") and answers[-1].endswith(b"Request head is too long.")
        writer.close()
        await healthy(port)


@pytest.mark.parametrize(
    "data", [bytes(range(256)) * 9, b"\x16\x03\x01\x00\xf1\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
async def test_what_is_not_http_is_refused(data: bytes) -> None:
    async with listening() as (router, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        assert router.metric('tgi_http_responses{route="other",status="400"}') == 1
        await healthy(port)


async def test_an_offer_of_http_2_is_passed_over() -> None:
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    async with listening() as (_, port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(2):
            answer = await client.post("/generate", json=SHORT, headers=offer)
            assert (answer.status_code, list(answer.json())) == (200, ["generated_text"])


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with listening() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path in ("/health", "/nothing", "/info"):
            writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        answers = b""
        while b"model_id" not in answers:
            answers += await asyncio.wait_for(reader.read(65536), 5)
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"404", b"200"]
        writer.close()


@pytest.mark.parametrize(("version", "hosts", "status"), [
    ("1.1", 0, b"400"), ("1.1", 1, b"200"), ("1.1", 2, b"400"), ("1.0", 0, b"200"), ("1.0", 1, b"200"),
])  # fmt: skip
async def test_http_1_1_needs_one_host(version: str, hosts: int, status: bytes) -> None:
    """The answer comes in its turn, behind that to a request before."""
    async with listening() as (router, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        named = "Host: x\r\n" * hosts
        writer.write(f"GET /info HTTP/1.1\r\nhost: x\r\n\r\nGET /health HTTP/{version}\r\n{named}\r\n".encode())
        if status == b"200" and version == "1.1":
            writer.write(b"GET /health HTTP/1.0\r\n\r\n")  # which ends the connection
        answers = await asyncio.wait_for(reader.read(), 5)
        assert re.findall(rb"HTTP/1.1 (\d+)", answers)[:2] == [b"200", status]
        assert answers.endswith(b"needs one Host header.") == (status == b"400")
        writer.close()
        await healthy(port)
        assert router.metric("tgi_request_count") == 1
        assert router.metric('tgi_http_responses{route="other",status="400"}') == (status == b"400")


async def test_a_client_that_sent_requests_ahead_and_went_away() -> None:
    async with listening(step_seconds=0.02) as (router, port):
        _, writer = await send(port, "/generate", SHORT)
        for _ in range(2):
            data = json.dumps(LONG).encode()
            writer.write(HEAD % len(data) + data)
        await until(lambda: router.metric("tgi_request_success") == 1 and router.engine.running == 1)
        writer.close()
        await until(lambda: router.engine.running + router.engine.waiting == 0, 2)


@pytest.mark.parametrize("begin", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"])
@pytest.mark.parametrize("more", [b"", b"\r\n"])
async def test_a_connection_that_asks_nothing_is_closed(begin: bytes, more: bytes) -> None:
    async with started() as router:
        listener = socket.create_server(("127.0.0.1", 0))
        server = Server(router.app, NetworkOptions(), router.metrics)
        server.config.timeout_keep_alive = 1
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(begin)
        reading = asyncio.create_task(reader.read())
        for _ in range(20):
            writer.write(more)
            await asyncio.wait([reading], timeout=0.1)
        assert reading.done() and (reading.exception() or reading.result().count(b"HTTP/1.1 200") == bool(begin))
        writer.close()
        server.should_exit = True
        await serving


BODY = HEAD % 1000 + b'{"inputs"'


@pytest.mark.parametrize(
    ("begin", "then", "answers"),
    [
        (b"P", b"", [b"408"]),
        (b"GET /health HTTP/1.1\r\nhost: x\r\n", b"a", [b"408"]),
        (BODY, b"", [b"408"]),
        (BODY, b" ", [b"408"]),
        (BODY.replace(b"application", b"text"), b" ", [b"415"]),
        (BODY.replace(b" /generate", b" /nothing"), b" ", [b"404"]),  # answered before it has arrived
        (BODY.replace(b"1000", b"9999999"), b" ", [b"413"]),
        (b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /health", b" ", [b"200", b"408"]),
    ],
)
async def test_a_request_that_does_not_arrive(begin: bytes, then: bytes, answers: list[bytes]) -> None:
    async with listening(receive_timeout=0.3) as (router, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        reading, begun = asyncio.create_task(reader.read()), time.monotonic()
        while not reading.done():
            writer.write(then)
            await asyncio.sleep(0.02)
            assert time.monotonic() - begun < 3
        with suppress(ConnectionError):
            assert re.findall(rb"HTTP/1.1 (\d+)", await reading) == answers
        assert time.monotonic() - begun > 0.29
        assert router.metric('tgi_http_responses{route="other",status="408"}') == answers.count(b"408")
        writer.close()


@pytest.mark.parametrize(
    "more", [b"\r\n", b"GET /he", b'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{"inputs":']
)
async def test_what_a_client_sends_ahead_does_not_end_the_request_before(more: bytes) -> None:
    async with listening(receive_timeout=0.2, step_seconds=0.02) as (_, port):
        reader, writer = await send(port, "/generate", {"inputs": "x", "parameters": {"max_new_tokens": 50}})
        writer.write(more)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("path", ["/v1/completions", "/generate_stream"])
async def test_an_answer_that_was_never_begun_is_closed(path: str) -> None:
    body = json.dumps({"prompt": "x", "max_tokens": 1500, "stream": True, **LONG}).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
    }  # fmt: skip
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        gone.set()  # at the head of the answer, before its body is asked for
        await asyncio.sleep(60)

    async with started(step_seconds=0.01) as router:
        gc.disable()
        try:
            await router.app(scope, receive, send)  # type: ignore[arg-type]
            assert router.engine.running + router.engine.waiting == 0
        finally:
            gc.enable()


async def test_a_client_has_so_many_connections_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with listening(max_client_connections=2) as (router, port):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 429 ") and answer.endswith(b"Too many connections from this address.")
        writer.close()
        assert router.metric('tgi_http_responses{route="other",status="429"}') == 1
        assert "Turned away: 429 Too Many Requests: more than max_client_connections" in caplog.text
        for _, kept in held:
            kept.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert [(await kept.readline())[:12] for kept, _ in held] == [b"HTTP/1.1 200"] * 2
        held[0][1].close()
        await asyncio.sleep(0.05)
        await healthy(port)
        held[1][1].close()


SERIES = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)+)\})? (-?[0-9][0-9.e+-]*)')


async def test_metrics_are_strict_prometheus_text() -> None:
    async with listening() as (_, port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for body in (SHORT, {"inputs": ""}, {"inputs": 1}, SHORT):
            await client.post("/generate", json=body)
        text = (await client.get("/metrics")).text
    kinds: dict[str, str] = {}
    buckets: dict[str, list[float]] = defaultdict(list)
    seen, helped = set(), ""
    for line in text.splitlines():
        if line.startswith("#"):
            _, word, family, rest = line.split(" ", 3)
            assert family not in kinds
            if word == "HELP":
                helped = family
                continue
            assert (word, family) == ("TYPE", helped) and rest in ("counter", "gauge", "histogram")
            kinds[family] = rest
            continue
        match = SERIES.fullmatch(line)
        assert match, line
        name, labels, value = match[1], match[2] or "", float(match[3])
        assert (name, labels) not in seen
        seen.add((name, labels))
        parts = [f"{family}_{part}" for part in ("bucket", "sum", "count")]
        assert name in (parts if kinds[family] == "histogram" else [family])
        if name.endswith("_bucket"):
            buckets[family + re.sub('le="[^"]*",?', "", labels).rstrip(",")].append(value)
        if name.endswith("_count") and kinds[family] == "histogram":
            assert buckets[family + labels][-1] == value
    assert text.endswith("\n") and all(counts == sorted(counts) for counts in buckets.values())
    assert kinds["tgi_request_count"] == "counter" and kinds["tgi_request_duration"] == "histogram"
