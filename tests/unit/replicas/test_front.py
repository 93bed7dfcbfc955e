"""What clients see of replicas that answer, die, or are not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest

from tests.integration.server import series
from tgi_server.replicas import paths
from tgi_server.replicas.call import Call, Head, passed_on
from tgi_server.replicas.front import Front
from tgi_server.replicas.relay import LostError
from tgi_server.router import invocations
from tgi_server.router.anthropic.routes import AnthropicRoutes
from tgi_server.router.native.routes import NativeRoutes
from tgi_server.router.openai.responses.routes import ResponsesRoutes
from tgi_server.router.openai.routes import OpenAIRoutes
from tgi_server.telemetry.metrics import Metrics

JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
SCOPE = {"type": "http", "method": "POST", "query_string": b"", "headers": []}
Answer = Callable[[Call], AsyncGenerator[Head | bytes, None]]


class Fake:
    """Replicas that answer as they are told."""

    def __init__(self, answer: Answer, running: int = 2) -> None:
        self.running = running
        self.calls: list[Call] = []
        self.ended = asyncio.Event()
        self.health: list[tuple[Head, bytes]] = []
        self.hangs = False
        self._answer = answer

    async def send(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        self.calls.append(call)
        try:
            async for piece in self._answer(call):
                yield piece
        finally:
            self.ended.set()

    async def all(self, call: Call) -> AsyncGenerator[tuple[Head, bytes], None]:
        for each in self.health:
            yield each
        if self.hangs:
            await asyncio.Event().wait()

    async def metrics(self) -> dict[str, str]:
        return {"b": "# HELP m h\n# TYPE m gauge\nm 2\n", "a": "# HELP m h\n# TYPE m gauge\nm 1\n"}


async def echo(call: Call) -> AsyncGenerator[Head | bytes, None]:
    yield Head(418, [*JSON, (b"x-a", b"1"), (b"x-a", b"2")])
    yield b"got "
    yield call.body


async def dies(call: Call) -> AsyncGenerator[Head | bytes, None]:
    raise LostError("gone")
    yield b""


def dies_after(headers: list[tuple[bytes, bytes]]) -> Answer:
    async def answer(call: Call) -> AsyncGenerator[Head | bytes, None]:
        yield Head(200, headers)
        yield b"data: 1\n\n"
        raise LostError("gone")

    return answer


async def hangs(call: Call) -> AsyncGenerator[Head | bytes, None]:
    await asyncio.Event().wait()
    yield b""


def begins(headers: list[tuple[bytes, bytes]]) -> Answer:
    async def answer(call: Call) -> AsyncGenerator[Head | bytes, None]:
        yield Head(200, headers)
        yield b"data: 1\n\n"
        await asyncio.Event().wait()

    return answer


def client_of(fake: Fake, limit: int = 1000, chat: bool = False) -> tuple[httpx.AsyncClient, Front]:
    front = Front(fake, limit, Metrics(10, 10), chat)
    return httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://front"), front


async def test_a_request_and_its_answer_pass_through() -> None:
    fake = Fake(echo)
    client, _ = client_of(fake)
    text = "long enough to have a key: " * 9
    answer = await client.post("/generate?c=%2F&d", json={"inputs": text}, headers={"Authorization": "Bearer k"})
    call = fake.calls[0]
    assert (answer.status_code, answer.headers.get_list("x-a")) == (418, ["1", "2"])
    assert answer.content == b"got " + call.body and json.loads(call.body) == {"inputs": text}
    assert (call.method, call.target) == ("POST", "/generate?c=%2F&d")
    assert (b"authorization", b"Bearer k") in call.headers
    assert {b"content-length", b"connection"}.isdisjoint(key for key, _ in call.headers)
    assert len(call.keys) == len(text) // 64
    await client.get("/a%20b")
    assert fake.calls[1].target == "/a%20b"


async def test_only_what_generates_has_keys() -> None:
    fake = Fake(echo)
    client, _ = client_of(fake)
    for path in ("/tokenize", "/v1/messages/count_tokens", "/invocations", "/"):
        await client.post(path, json={"inputs": "long enough to have a key: " * 9})
    assert [bool(call.keys) for call in fake.calls] == [False, False, True, True]


def test_the_paths_that_generate_are_those_of_a_server() -> None:
    native, openai, responses, messages = (
        kind.__new__(kind) for kind in (NativeRoutes, OpenAIRoutes, ResponsesRoutes, AnthropicRoutes)
    )
    found = {*native.refusable(), *openai.refusable(), *responses.refusable(), *messages.refusable()}  # type: ignore[attr-defined]
    assert found | {invocations.PATH} == paths.GENERATE


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


async def spoken(front: Front, path: str = "/generate") -> list[dict[str, Any]]:
    """What is sent to a client that stays."""
    messages = iter([{"type": "http.request", "body": b"{}"}])
    sent = []

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asyncio.wait_for(front({**SCOPE, "path": path, "raw_path": path.encode()}, receive, send), 5)
    return sent


async def test_any_other_answer_is_cut_off_without_a_traceback() -> None:
    _, front = client_of(Fake(dies_after(JSON)))
    assert all(message.get("more_body", True) for message in await spoken(front))


async def test_who_waits_when_the_last_replica_goes_is_told_so() -> None:
    fake = Fake(hangs)
    client, front = client_of(fake)
    asked = asyncio.create_task(client.post("/generate", json={}))
    while not fake.calls:
        await asyncio.sleep(0)
    fake.running = 0
    front.end_waiting()
    answer = await asyncio.wait_for(asked, 5)
    assert answer.status_code == 503 and "no replica" in answer.text
    assert fake.ended.is_set()


async def test_at_the_end_all_are_told() -> None:
    """Streams by an event, who has no answer yet by an error; only what has begun otherwise is cut off."""
    for answer, expected in ((begins(EVENTS), "the server stopped"), (hangs, "the server stopped"), (begins(JSON), "")):
        fake = Fake(answer)
        _, front = client_of(fake)
        asked = asyncio.create_task(spoken(front))
        while not fake.calls:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        front.end_waiting() if answer is not hangs else None  # which is nothing to those that have begun
        front.end_all()
        sent = await asked
        assert expected in sent[-1]["body"].decode()
        assert bool(expected) is not sent[-1].get("more_body", False)
        assert fake.ended.is_set()


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


async def test_one_that_hangs_keeps_nobody_from_hearing_that_another_is_well() -> None:
    fake = Fake(dies)
    fake.health, fake.hangs = [(Head(200, JSON), b"")], True
    client, _ = client_of(fake)
    assert (await asyncio.wait_for(client.get("/health"), 5)).status_code == 200


async def test_while_it_drains_new_requests_are_refused() -> None:
    fake = Fake(echo)
    client, front = client_of(fake)
    front.draining = True
    assert (await client.get("/health")).status_code == 503
    assert (await client.post("/generate", json={})).json()["error"] == "Server is shutting down"
    assert (await client.get("/metrics")).status_code == 200
    live = await client.get("/livez")
    assert (live.status_code, live.headers["content-type"]) == (200, "text/plain")
    assert not fake.calls
    assert (await client.get("/info")).status_code == 418  # as a server still tells


async def test_metrics_of_all_replicas_and_of_its_own() -> None:
    client, _ = client_of(Fake(echo))
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    told = series(answer.text)
    assert (told['m{replica="a"}'], told['m{replica="b"}']) == (1, 2)
    assert told['tgi_request_failure{replica="front",err="generation"}'] == 0


async def test_its_own_answers_are_counted() -> None:
    fake = Fake(dies)
    client, _ = client_of(fake)
    await client.post("/generate", json={})
    await spoken(client_of(Fake(dies_after(EVENTS)))[1])
    fake.running = 0
    for path in ("/generate", "/v1/chat/completions", "/tokenize", "/nowhere/of/a/client"):
        await client.post(path, json={})
    await client.get("/")
    told = series((await client.get("/metrics")).text)
    counted = {name: value for name, value in told.items() if "front" in name and name.startswith("tgi_")}
    assert counted == {
        'tgi_request_failure{replica="front",err="generation"}': 3,
        'tgi_request_failure{replica="front",err="overloaded"}': 0,
        'tgi_http_responses{replica="front",route="/generate",status="424"}': 1,
        'tgi_http_responses{replica="front",route="/generate",status="503"}': 1,
        'tgi_http_responses{replica="front",route="/v1/chat/completions",status="503"}': 1,
        'tgi_http_responses{replica="front",route="other",status="503"}': 2,
        'tgi_http_responses{replica="front",route="/health",status="503"}': 1,
    }


async def test_a_request_has_one_id() -> None:
    fake = Fake(echo)
    client, _ = client_of(fake)
    await client.post("/generate", json={}, headers={"x-request-id": "mine"})
    await client.post("/generate", json={}, headers={"x-request-id": "not harmless"})
    ids = [dict(call.headers)[b"x-request-id"] for call in fake.calls]
    assert ids[0] == b"mine" and ids[1].startswith(b"req_")
    fake.running = 0
    answer = await client.post("/v1/messages", json={}, headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine"
    assert "x-request-id" not in (await client.get("/health")).headers


@pytest.mark.parametrize("chat", [False, True])
async def test_errors_of_invocations_are_in_the_words_of_what_it_stands_for(chat: bool) -> None:
    client, _ = client_of(Fake(dies), chat=chat)
    answer = await client.post("/invocations", json={})
    assert answer.status_code == (500 if chat else 424)
    assert isinstance(answer.json()["error"], dict) is chat


async def test_a_client_that_goes_away_ends_its_request() -> None:
    async def endless(call: Call) -> AsyncGenerator[Head | bytes, None]:
        yield Head(200, EVENTS)
        while True:
            yield b"data: 1\n\n"
            await asyncio.sleep(0.01)

    fake, sent = Fake(endless), asyncio.Event()
    _, front = client_of(fake, 10)
    messages = iter([{"type": "http.request", "body": b"{}"}])

    async def receive() -> dict[str, Any]:
        if (message := next(messages, None)) is not None:
            return message
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            sent.set()

    await asyncio.wait_for(front({**SCOPE, "path": "/", "raw_path": b"/"}, receive, send), 5)
    assert fake.ended.is_set()
