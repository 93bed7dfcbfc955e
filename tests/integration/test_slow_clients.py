"""Clients that read or send slowly, stop in the middle, or vanish: what they cost, and what others notice of them."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import psutil
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tests.integration.listening import listening, until
from tests.integration.server import Server
from tgi_server.engine.generation import Generation
from tgi_server.errors import OverloadedError
from tgi_server.router.http.protocol import HttpProtocol

GOOD, BAD = 32, 200
SMALL_WINDOW = 2048
"""Bytes of receive buffer: hardly anything goes to a client that does not read."""
WORDY: dict[str, Any] = {"max_new_tokens": 200, "top_n_tokens": 5}
"""100 KB of events."""


def post(path: str, body: Any) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


STREAM = post("/generate_stream", {"inputs": "x", "parameters": WORDY})
CHAT = post(
    "/v1/chat/completions",
    {"messages": [{"role": "user", "content": "x"}], "max_tokens": 200, "stream": True, "ignore_eos": True},
)
WHOLE = post("/generate", {"inputs": "x", "parameters": {**WORDY, "max_new_tokens": 80, "details": True}})


class Tcp:
    """What a client of ill will does with a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.loop = asyncio.get_running_loop()

    async def say(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.connection, data)

    async def hear(self, size: int) -> bytes:
        return await self.loop.sock_recv(self.connection, size)


async def reads_nothing(tcp: Tcp) -> None:
    await tcp.say(STREAM)


async def reads_nothing_of_a_chat(tcp: Tcp) -> None:
    await tcp.say(CHAT)


async def reads_nothing_of_a_whole_answer(tcp: Tcp) -> None:
    await tcp.say(WHOLE)


async def stops_reading(tcp: Tcp) -> None:
    await tcp.say(STREAM)
    await tcp.hear(1500)


async def reads_a_byte_now_and_then(tcp: Tcp) -> None:
    await tcp.say(STREAM)
    while await tcp.hear(1):
        await asyncio.sleep(0.1)


async def sends_ahead_and_reads_nothing(tcp: Tcp) -> None:
    await tcp.say(STREAM * 3)


async def half_closes(tcp: Tcp) -> None:
    await tcp.say(STREAM)
    await asyncio.sleep(0.5)
    tcp.connection.shutdown(socket.SHUT_WR)


async def resets(tcp: Tcp) -> None:
    await tcp.say(STREAM)
    await tcp.hear(1500)
    tcp.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tcp.connection.close()


async def leaves(tcp: Tcp) -> None:
    await tcp.say(CHAT)
    await tcp.hear(1500)
    tcp.connection.close()


async def sends_half_a_head(tcp: Tcp) -> None:
    await tcp.say(STREAM[:20])


async def sends_a_byte_now_and_then(tcp: Tcp) -> None:
    for index in range(len(STREAM)):
        await tcp.say(STREAM[index : index + 1])
        await asyncio.sleep(0.1)


KINDS = [
    reads_nothing, reads_nothing_of_a_chat, reads_nothing_of_a_whole_answer, stops_reading, reads_a_byte_now_and_then,
    sends_ahead_and_reads_nothing, half_closes, resets, leaves, sends_half_a_head, sends_a_byte_now_and_then,
]  # fmt: skip


class Crowd:
    """Clients of all `KINDS` by turns. They keep their sockets open until the crowd is sent away, unless they want to
    close them themselves: it is the server that has to end it."""

    def __init__(self, port: int, size: int) -> None:
        self.connections = [socket.socket() for _ in range(size)]
        self._tasks = [
            asyncio.create_task(self._behave(KINDS[index % len(KINDS)], connection, port))
            for index, connection in enumerate(self.connections)
        ]

    async def _behave(self, kind: Callable[[Tcp], Awaitable[None]], connection: socket.socket, port: int) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        with suppress(OSError):  # cut off by the server
            await kind(Tcp(connection))

    async def send_away(self) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), result
        for connection in self.connections:
            connection.close()


@asynccontextmanager
async def crowd(port: int, size: int = BAD) -> AsyncIterator[Crowd]:
    clients = Crowd(port, size)
    try:
        yield clients
    finally:
        await clients.send_away()


async def good_answers(port: int, tokens: int) -> tuple[list[bytes], float]:
    """The event streams of 32 clients at once, and the seconds they took together."""
    limits = httpx.Limits(max_connections=GOOD)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=100, limits=limits) as client:
        begun = time.monotonic()
        answers = await asyncio.gather(
            *(
                client.post(
                    "/generate_stream",
                    json={"inputs": f"good {index}", "parameters": {"max_new_tokens": tokens, "seed": index}},
                )
                for index in range(GOOD)
            )
        )
        return [answer.content for answer in answers], time.monotonic() - begun


def open_files() -> int:
    return psutil.Process().num_fds()


@pytest.fixture(autouse=True)
def new_objects_only() -> Iterator[None]:
    """The collector looks at what a test makes. With all that tests before it have left it would hold up the server
    for as long as some timers run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def left_over() -> list[Any]:
    """What a request or a connection leaves behind when somebody holds on to it."""
    gc.collect()
    kinds = {HttpProtocol, RequestResponseCycle, Generation}
    return [thing for thing in gc.get_objects() if type(thing) in kinds]  # isinstance() would wake torch's warnings


@pytest.mark.alone
async def test_two_hundred_bad_clients_beside_thirty_two_good_ones(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    permits = 2 * BAD
    options = {"step_seconds": 0.03, "num_blocks": 1 << 14, "max_concurrent_requests": permits}
    async with listening(**options, send_timeout=1.0, receive_timeout=1.0) as (router, port):
        alone, undisturbed = await good_answers(port, 40)
        await until(lambda: not left_over())
        files, tasks = open_files(), len(asyncio.all_tasks())
        async with crowd(port) as bad:
            await until(lambda: router.engine.running > BAD / 2)
            beside, disturbed = await good_answers(port, 40)
            await until(lambda: router.engine.running + router.engine.waiting == 0, 15)
            assert beside == alone and all(b'"generated_text":"' in answer for answer in alone)
            assert disturbed < 2.5 * undisturbed
            # All this while the bad ones are still there.
            await until(lambda: open_files() <= files + sum(c.fileno() >= 0 for c in bad.connections), 15)
            with ExitStack() as held:
                for _ in range(permits):
                    held.enter_context(router.engine.permit())
        await until(lambda: len(asyncio.all_tasks()) <= tasks and open_files() <= files)
        assert left_over() == []
    assert router.metric('tgi_request_failure{err="dropped"}') > BAD / 2
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING] == []


def connected(port: int) -> socket.socket:
    """To a client whose kernel takes hardly anything for it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    return connection


def waiting_for_readers() -> list[int]:
    """Bytes that wait in this process, of each connection that is behind."""
    sizes = [thing.transport.get_write_buffer_size() for thing in left_over() if isinstance(thing, HttpProtocol)]
    return [size for size in sizes if size]


async def test_a_reader_that_pauses_costs_little_and_misses_nothing() -> None:
    asked = {"inputs": "x", "parameters": {**WORDY, "max_new_tokens": 600, "seed": 1}}
    async with listening(max_concurrent_requests=1) as (router, port):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            text = (await client.post("/generate_stream", json=asked)).content
        with connected(port) as connection:
            tcp = Tcp(connection)
            await tcp.say(post("/generate_stream", asked))
            await until(lambda: router.engine.running == 1)
            await until(lambda: router.engine.running == 0, 20)
            # It was generated at full speed and gave its cache back; what is not read waits as events.
            assert len(waiting_for_readers()) == 1 and sum(waiting_for_readers()) < len(text) / 5
            with pytest.raises(OverloadedError), router.engine.permit():
                pass
            answer = b""
            while not answer.endswith(b"\r\n0\r\n\r\n"):
                answer += await tcp.hear(65536)
        _, _, body = answer.partition(b"\r\n\r\n")
        assert re.sub(rb"(\r\n)?[0-9a-f]+\r\n(?=data|\r\n)|\r\n$", b"", body).rstrip() == text.rstrip()


LONG_ANSWER = post("/tokenize", {"inputs": "x" * 130_000})
"""More than the kernel ever takes for a connection (4 MiB, tcp_wmem), in one piece."""


async def test_a_client_that_reads_steadily_is_not_cut_off() -> None:
    async with listening(send_timeout=0.8) as (_, port):
        with connected(port) as connection:
            tcp, begun = Tcp(connection), time.monotonic()
            await tcp.say(LONG_ANSWER)
            while time.monotonic() - begun < 3 * 0.8:
                assert await tcp.hear(1024)
                await asyncio.sleep(0.01)
            assert waiting_for_readers()


async def test_an_answer_that_nobody_reads_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Also if its request is done and the connection is being closed."""
    caplog.set_level(logging.INFO)
    async with listening(send_timeout=2) as (_, port):  # half of it is how much earlier than the kernel we have to be
        with connected(port) as connection:
            await Tcp(connection).say(LONG_ANSWER.replace(b"host: x", b"host: x\r\nconnection: close"))
            await until(lambda: sum(waiting_for_readers()) > 500_000)
            await until(lambda: "A client that read nothing for 2 s is cut off" in caplog.messages, 20)
            await until(lambda: not left_over())


async def test_a_stop_does_not_wait_for_readers(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(shutdown_timeout=0.1) as (_, port):
        bad = Crowd(port, 2 * len(KINDS))
        await until(lambda: len(waiting_for_readers()) > 5, 20)
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    await bad.send_away()
    assert [record for record in caplog.records if record.exc_info] == []


def generated(stream: bytes) -> str:
    """The whole text, from the last event of a stream."""
    text: str = json.loads(stream.strip().rsplit(b"\n\n", 1)[-1].removeprefix(b"data: "))["generated_text"]
    return text


async def until_idle(server: Server, files: int) -> None:
    """Nothing runs or waits, and the router has `files` open."""
    idle = {"tgi_batch_current_size 0", "tgi_queue_size 0"}
    router = server.named("tgi_server.router.main")[0]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
        begun = time.monotonic()
        while not (idle <= set((await client.get("/metrics")).text.splitlines()) and router.num_fds() <= files + 1):
            assert time.monotonic() - begun < 60, (router.num_fds(), files)
            await asyncio.sleep(0.2)


@pytest.mark.timeout(240)
async def test_a_real_server_is_as_before() -> None:
    options = ("dtype=float32", "max_concurrent_requests=400", "send_timeout=1", "receive_timeout=1")
    with Server("model=smollm2", *options) as server:
        router = server.named("tgi_server.router.main")[0]
        alone, _ = await good_answers(server.port, 8)
        files = router.num_fds()
        async with crowd(server.port, len(KINDS)):  # once for all that is loaded and allocated only once
            await asyncio.sleep(1)
            await until_idle(server, files)
        memory = router.memory_info().rss
        async with crowd(server.port):
            await asyncio.sleep(1)
            beside, _ = await good_answers(server.port, 8)
            await until_idle(server, files)
        assert [generated(answer) for answer in beside] == [generated(answer) for answer in alone]
        assert router.memory_info().rss - memory < 16 << 20
        assert server.stop() == 0 and "Traceback" not in server.output
