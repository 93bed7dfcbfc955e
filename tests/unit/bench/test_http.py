"""Answers of servers of many habits, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tgi_server.bench.completion import Completions, Record
from tgi_server.bench.http import BenchError, Pool, Target
from tgi_server.bench.load import find_model, measure
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.workload import Workload

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
UNFRAMED = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
TOKEN = b'data: {"choices": [{"text": "a", "finish_reason": null}], "usage": null}\n\n'
LAST = b'data: {"choices": [{"text": "", "finish_reason": "length"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Fake:
    """Writes the same pieces for every request, each in a write of its own; closes then if told to."""

    def __init__(self, pieces: list[bytes], close: bool) -> None:
        self.pieces, self.close = pieces, close
        self.connections = self.requests = 0
        self.open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open[writer] = asyncio.current_task()
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length:")[1].split()[0])
                await reader.readexactly(length)
                self.requests += 1
                for piece in self.pieces:
                    writer.write(piece)
                    await asyncio.sleep(0.01)
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


@asynccontextmanager
async def fake(*pieces: bytes, close: bool = False) -> AsyncIterator[tuple[Fake, Target]]:
    fake = Fake(list(pieces), close)
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    try:
        yield fake, Target("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in fake.open:
            writer.transport.abort()
        await asyncio.gather(*filter(None, fake.open.values()))


async def ask(target: Target, limit: float = 5.0) -> Record:
    pool = Pool(target)
    try:
        return await Completions(pool, "m", {}).ask("x", 9, time.monotonic(), 0.0, limit)
    finally:
        pool.close()


async def test_tokens_are_counted_by_usage_and_timed_by_event() -> None:
    stream = chunk(TOKEN + TOKEN), chunk(TOKEN[:20]), chunk(TOKEN[20:] + LAST), chunk(USAGE + DONE) + b"0\r\n\r\n"
    async with fake(CHUNKED, *stream) as (_, target):
        record = await ask(target)
    assert (record.error, record.tokens, record.prompt_tokens) == (None, 9, 7)
    one, two, three = record.arrivals
    assert one == two < three - 0.01 < record.end


async def test_without_usage_events_count() -> None:
    async with fake(UNFRAMED, TOKEN, TOKEN, LAST, DONE, close=True) as (_, target):
        record = await ask(target)
    assert (record.error, record.tokens, record.prompt_tokens) == (None, 2, None)


@pytest.mark.parametrize("usage", ["[1]", '{"completion_tokens": "2"}', '{"completion_tokens": -5}', "1e308", "{}"])
async def test_a_usage_that_cannot_be_is_as_none(usage: str) -> None:
    odd = b'data: {"choices": [], "usage": %b}\n\n' % usage.encode()
    async with fake(plain("200 OK", TOKEN + TOKEN + LAST + odd + DONE)) as (_, target):
        record = await ask(target)
    assert (record.error, record.tokens, record.prompt_tokens) == (None, 2, None)


async def test_interim_answers_are_passed_over() -> None:
    async with fake(b"HTTP/1.1 100 Continue\r\n\r\n", plain("200 OK", TOKEN + USAGE + DONE)) as (_, target):
        record = await ask(target)
    assert (record.error, record.tokens) == (None, 9)


@pytest.mark.parametrize(("pieces", "close", "message"), [
    ([plain("429 Too Many", b'{"error": {"message": "too\\nmany"}}')], False, "status 429: too many"),
    ([plain("422 No", b'{"error": "bad", "error_type": "x"}')], False, "status 422: bad"),
    ([plain("400 No", b'{"object": "error", "message": "bad"}')], False, "status 400: bad"),
    ([plain("404 No", b"<html>\nno")], False, "status 404: <html> no"),
    ([CHUNKED, chunk(TOKEN + b'data: {"error": {"message": "died"}}\n\n') + b"0\r\n\r\n"], False, "died"),
    ([CHUNKED, chunk(TOKEN)], True, "the server closed the connection"),
    ([plain("200 OK", b'{"choices": []}')], False, "the answer has no tokens"),
    ([b"SSH-2.0-x\r\n"], False, "the answer is not HTTP"),
    ([CHUNKED, chunk(b"data: {\n\n") + b"0\r\n\r\n"], False, "not JSON"),
    ([plain("200 OK", b'data: {"choices": 5}\n\ndata: {"choices": ["a"]}\n\n')], False, "the answer has no tokens"),
    ([plain("200 OK", b'data: {"error": {"message": null, "code": 7}}\n\n')], False, "'code': 7"),
    ([b"HTTP/1.1 307 X\r\nlocation: http://y/\r\ncontent-length: 0\r\n\r\n"], False, "moved to http://y/"),
    ([b"HTTP/1.1 302 X\r\nlocation: http://y/\r\n\r\n"], True, "status 302: moved to http://y/"),
    ([b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nabc"], False, "status 101"),
    ([b"HTTP/1.1 100 Continue\r\n\r\n"], True, "the server closed the connection"),
    ([UNFRAMED, b"x" * (1 << 20), b"x"], True, "a line of more than 1 MiB"),
    ([UNFRAMED, b"\n" * (1 << 20), b"\n" * (1 << 16)], True, "longer than the tokens asked for"),
])  # fmt: skip
async def test_failures(pieces: list[bytes], close: bool, message: str) -> None:
    async with fake(*pieces, close=close) as (_, target):
        record = await ask(target)
    assert record.error is not None and message in record.error and "\n" not in record.error


async def test_a_server_that_hangs() -> None:
    async with fake(CHUNKED, chunk(TOKEN)) as (_, target):
        record = await ask(target, 0.1)
    assert record.error == "not done after 0.1 s"
    assert len(record.arrivals) == 1


async def test_connections_are_kept_where_the_server_keeps_them() -> None:
    work = Workload.of(BenchOptions(requests=12, warmup=2, clients="3"))
    for close, connections in ((False, range(1, 4)), (True, range(14, 15))):
        head = UNFRAMED if close else CHUNKED
        body = [TOKEN + DONE] if close else [chunk(TOKEN + DONE) + b"0\r\n\r\n"]
        async with fake(head, *body, close=close) as (server, target):
            run = await measure(target, None, work, 3, 0, lambda *_: None)
        assert (len(run.records), server.requests) == (12, 14)
        assert server.connections in connections


async def test_an_open_loop_sends_when_it_is_time() -> None:
    work = Workload.of(BenchOptions(request_rate=100.0, requests=20, warmup=0, clients="20"))
    async with fake(CHUNKED, b"", b"", chunk(TOKEN + DONE) + b"0\r\n\r\n") as (_, target):
        run = await measure(target, None, work, 20, 0, lambda *_: None)
    assert len(run.records) == 20
    assert all(0 <= record.sent - record.start < 0.1 for record in run.records)
    assert any(later.sent < earlier.end for earlier, later in zip(run.records, run.records[1:], strict=False))


async def test_an_open_loop_counts_the_wait_for_a_place() -> None:
    work = Workload.of(BenchOptions(request_rate=1000.0, requests=5, warmup=0, clients="1"))
    async with fake(CHUNKED, chunk(TOKEN + DONE) + b"0\r\n\r\n") as (_, target):
        run = await measure(target, None, work, 1, 0, lambda *_: None)
    assert all(later.sent >= earlier.end for earlier, later in zip(run.records, run.records[1:], strict=False))
    assert run.records[-1].sent - run.records[-1].start > 0.03


@pytest.mark.alone
async def test_a_duration_ends_a_measurement() -> None:
    work = Workload.of(BenchOptions(duration=0.2, warmup=0))
    seen: list[float] = []
    began = time.monotonic()
    async with fake(CHUNKED, chunk(TOKEN + DONE) + b"0\r\n\r\n") as (_, target):
        run = await measure(target, None, work, 1, 0, lambda part, records: seen.append(part))
    assert time.monotonic() - began < 1
    assert 3 < len(run.records) < 30
    assert all(0 < part <= 1 for part in seen)


async def test_who_watches_can_end_it() -> None:
    def stop(part: float, records: list[Record]) -> None:
        raise BenchError("enough")

    async with fake(CHUNKED, chunk(TOKEN + DONE) + b"0\r\n\r\n") as (_, target):
        with pytest.raises(BenchError, match="enough"):
            await measure(target, None, Workload.of(BenchOptions(duration=30.0)), 1, 0, stop)


@pytest.mark.parametrize("warmup", [0, 1])
async def test_who_watches_can_end_a_server_that_hangs(warmup: int) -> None:
    def stop(part: float, records: list[Record]) -> None:
        raise BenchError("enough")

    async with fake(CHUNKED, chunk(TOKEN)) as (_, target):
        with pytest.raises(BenchError, match="enough"):
            await measure(target, None, Workload.of(BenchOptions(warmup=warmup)), 1, 0, stop)


async def test_a_server_that_closes_at_once() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.transport.abort(), "127.0.0.1", 0)
    record = await ask(Target("127.0.0.1", server.sockets[0].getsockname()[1]))
    server.close()
    assert record.error in ("the server closed the connection", "Connection reset by peer", "Broken pipe")


async def test_nothing_but_failures_is_an_error() -> None:
    async with fake(plain("500 Oh", b"no")) as (_, target):
        with pytest.raises(BenchError, match="all 1 requests failed; the first: status 500: no"):
            await measure(target, None, Workload.of(BenchOptions(requests=1)), 1, 0, lambda *_: None)


@pytest.mark.parametrize(("answer", "model"), [
    (plain("200 OK", b'{"data": [{"id": "a"}, {"id": "b"}]}'), "a"), (plain("200 OK", b'{"data": []}'), None),
    (plain("200 OK", b"hello"), None), (plain("404 No", b""), None), (plain("200 OK", b'{"data": [{"id": 3}]}'), None),
])  # fmt: skip
async def test_the_name_of_the_model(answer: bytes, model: str | None) -> None:
    async with fake(answer) as (_, target):
        assert await find_model(target) == model


async def test_a_list_of_models_without_end() -> None:
    async with fake(UNFRAMED, *[bytes(1 << 22)] * 5) as (_, target):
        with pytest.raises(BenchError, match="longer than 16 MiB"):
            await find_model(target)
