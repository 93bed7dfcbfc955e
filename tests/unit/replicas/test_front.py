"""What clients see of replicas that answer, die, or are not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.integration.server import series
from tgi_server.replicas.call import Call, Head, passed_on
from tgi_server.replicas.front import Front, LostError

JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
Answer = Callable[[Call], AsyncIterator[Head | bytes]]


class Fake:
    """Replicas that answer as they are told."""

    def __init__(self, answer: Answer, running: int = 2) -> None:
        self.running = running
        self.calls: list[Call] = []
        self.ended = asyncio.Event()
        self.health: list[tuple[Head, bytes]] = []
        self._answer = answer

    async def send(self, call: Call) -> AsyncIterator[Head | bytes]:
        self.calls.append(call)
        try:
            async for piece in self._answer(call):
                yield piece
        finally:
            self.ended.set()

    async def all(self, call: Call) -> list[tuple[Head, bytes]]:
        return self.health

    async def metrics(self) -> dict[str, str]:
        return {"b": "# HELP m h\n# TYPE m gauge\nm 2\n", "a": "# HELP m h\n# TYPE m gauge\nm 1\n"}


async def echo(call: Call) -> AsyncIterator[Head | bytes]:
    yield Head(418, [*JSON, (b"x-a", b"1"), (b"x-a", b"2")])
    yield b"got "
    yield call.body


async def dies(call: Call) -> AsyncIterator[Head | bytes]:
    raise LostError("gone")
    yield b""


def dies_after(headers: list[tuple[bytes, bytes]]) -> Answer:
    async def answer(call: Call) -> AsyncIterator[Head | bytes]:
        yield Head(200, headers)
        yield b"data: 1\n\n"
        raise LostError("gone")

    return answer


def client_of(fake: Fake, limit: int = 1000) -> tuple[httpx.AsyncClient, Front]:
    front = Front(fake, limit, lambda: "# HELP m h\n# TYPE m gauge\nm 3\n")
    return httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://front"), front


async def test_a_request_and_its_answer_pass_through() -> None:
    fake = Fake(echo)
    client, _ = client_of(fake)
    text = "long enough to have a key: " * 9
    answer = await client.post("/a%20b?c=%2F&d", json={"inputs": text}, headers={"Authorization": "Bearer k"})
    call = fake.calls[0]
    assert (answer.status_code, answer.headers.get_list("x-a")) == (418, ["1", "2"])
    assert answer.content == b"got " + call.body and json.loads(call.body) == {"inputs": text}
    assert (call.method, call.target) == ("POST", "/a%20b?c=%2F&d")
    assert (b"authorization", b"Bearer k") in call.headers
    assert {b"content-length", b"connection"}.isdisjoint(key for key, _ in call.headers)
    assert len(call.keys) == len(text) // 64


async def test_of_a_body_that_is_too_long_so_much_goes_on_that_it_is_refused() -> None:
    fake = Fake(echo)
    client, _ = client_of(fake, limit=10)
    await client.post("/", content=b"x" * 100)
    await client.post("/", content=b"y" * 10)
    assert [len(call.body) for call in fake.calls] == [11, 10]


def test_headers_of_the_connection_stay_behind() -> None:
    headers = [(b"Connection", b"close, X-Own"), (b"x-own", b"1"), (b"TE", b"trailers"), (b"x", b"2"), (b"date", b"d")]
    assert passed_on(headers, b"date") == [(b"x", b"2")]


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/generate", 424, lambda body: body["error_type"]),
        ("/v1/chat/completions", 500, lambda body: body["error"]["code"]),
        ("/v1/messages", 500, lambda body: body["error"]["type"]),
    ],
)
async def test_a_replica_that_dies_before_its_answer(path: str, status: int, kind: Callable[[Any], str]) -> None:
    client, _ = client_of(Fake(dies))
    answer = await client.post(path, json={})
    assert answer.status_code == status
    assert kind(answer.json()) in ("generation", "api_error")


async def test_a_stream_whose_replica_dies_ends_with_an_error() -> None:
    client, _ = client_of(Fake(dies_after(EVENTS)))
    for path in ("/generate_stream", "/v1/completions", "/v1/messages"):
        answer = await client.post(path, json={})
        first, last, _ = answer.text.split("\n\n")
        assert first == "data: 1"
        assert "lost" in json.loads(last.partition("data: ")[2])["error"].__str__()


async def test_any_other_answer_is_cut_off() -> None:
    client, _ = client_of(Fake(dies_after(JSON)))
    with pytest.raises(ConnectionAbortedError):
        await client.post("/generate", json={})


async def test_without_replicas_nothing_waits() -> None:
    fake = Fake(echo, running=0)
    client, _ = client_of(fake)
    for answer in (await client.get("/health"), await client.post("/generate", json={})):
        assert answer.status_code == 503
        assert answer.json()["error_type"] == "healthcheck"
    assert not fake.calls


@pytest.mark.parametrize(("statuses", "expected"), [([503, 200], 200), ([200], 200), ([503, 503], 503), ([], 503)])
async def test_one_replica_that_is_well_will_do(statuses: list[int], expected: int) -> None:
    fake = Fake(dies)
    fake.health = [(Head(status, JSON), str(status).encode()) for status in statuses]
    client, _ = client_of(fake)
    answer = await client.get("/health")
    assert answer.status_code == expected
    assert answer.text == str(expected) if statuses else "no replica" in answer.text


async def test_while_it_drains_new_requests_are_refused() -> None:
    fake = Fake(echo)
    client, front = client_of(fake)
    front.draining = True
    assert (await client.get("/health")).status_code == 503
    assert (await client.post("/generate", json={})).json()["error"] == "Server is shutting down"
    assert (await client.get("/metrics")).status_code == 200
    assert (await client.get("/livez")).status_code == 200
    assert not fake.calls


async def test_metrics_of_all_replicas_and_of_its_own() -> None:
    client, _ = client_of(Fake(echo))
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert series(answer.text) == {'m{replica="a"}': 1, 'm{replica="b"}': 2, 'm{replica="front"}': 3}


async def test_a_client_that_goes_away_ends_its_request() -> None:
    async def endless(call: Call) -> AsyncIterator[Head | bytes]:
        yield Head(200, EVENTS)
        while True:
            yield b"data: 1\n\n"
            await asyncio.sleep(0.01)

    fake, sent = Fake(endless), asyncio.Event()
    front = Front(fake, 10, str)
    messages = iter([{"type": "http.request", "body": b"{}"}])

    async def receive() -> dict[str, Any]:
        if (message := next(messages, None)) is not None:
            return message
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            sent.set()

    scope = {"type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    await asyncio.wait_for(front(scope, receive, send), 5)
    assert fake.ended.is_set()
