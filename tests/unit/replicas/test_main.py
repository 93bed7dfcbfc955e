"""What ends the front, and how: without Ray, on a socket of its own."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

_factory = logging.getLogRecordFactory()
pytest.importorskip("ray.serve", reason="Ray Serve is not installed")

from tgi_server.config.schema import ServerConfig  # noqa: E402
from tgi_server.errors import ConfigError, TgiError  # noqa: E402
from tgi_server.replicas import main  # noqa: E402
from tgi_server.replicas.call import Call, Head  # noqa: E402
from tgi_server.replicas.numbers import Numbers  # noqa: E402
from tgi_server.router.main import Server  # noqa: E402

logging.setLogRecordFactory(_factory)  # Ray's adds a field to what all tests log


class Fake:
    """A deployment of one replica that answers slowly."""

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        self.numbers = Numbers()
        self.numbers.see({"RUNNING": 1})
        self.look = look
        self.asked = asyncio.Event()

    @property
    def running(self) -> int:
        return self.numbers.running

    def waits_for(self) -> str:
        return "GPUs"

    async def send(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        yield Head(200, [(b"content-type", b"text/event-stream")])
        yield b"data: 1\n\n"
        self.asked.set()
        await asyncio.Event().wait()

    async def all(self, call: Call) -> AsyncGenerator[tuple[Head, bytes], None]:
        yield Head(200, []), b""

    async def metrics(self) -> dict[str, str]:
        return {}

    async def lines(self) -> AsyncGenerator[tuple[str, list[str]], None]:
        yield "name", ["line"]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(main, "_LOOK", 0.05)
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


async def served(fake: Any, listener: socket.socket, stop: asyncio.Event, **options: Any) -> str:
    """What was logged by the replicas until the front ended."""
    log = io.StringIO()
    await asyncio.wait_for(main.serve(ServerConfig(**options), fake, listener, stop, log), 30)
    return log.getvalue()


async def test_at_the_end_of_its_time_a_stream_is_told(listener: socket.socket) -> None:
    fake, stop = Fake(), asyncio.Event()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving = asyncio.create_task(served(fake, listener, stop, shutdown_timeout=0.1))
    async with httpx.AsyncClient(base_url=url, transport=httpx.AsyncHTTPTransport(retries=5)) as client:
        assert (await client.get("/livez")).status_code == 200
        asked = asyncio.create_task(client.post("/generate_stream", json={}, headers={"origin": "http://page"}))
        await fake.asked.wait()
        told = await client.get("/metrics")
        stop.set()
        answer = await asked
    assert "the server stopped" in answer.text and answer.headers["access-control-allow-origin"] == "*"
    assert 'tgi_replicas_running{replica="front"} 1\n' in told.text
    assert 'tgi_replicas_lost{replica="front"} 0\n' in told.text
    assert "name line\n" in await serving


async def test_it_ends_when_it_cannot_see_its_replicas_any_more(listener: socket.socket) -> None:
    def look() -> None:
        raise TgiError("deleted")

    with pytest.raises(TgiError, match="deleted"):
        await served(Fake(look), listener, asyncio.Event())


async def test_it_ends_when_it_cannot_listen(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(self: Any, sockets: Any = None) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(Server, "startup", refused)
    with pytest.raises(ConfigError, match=r"cannot listen on .* Address already in use"):
        await served(Fake(), listener, asyncio.Event())


def test_no_two_commands_have_the_same_application(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main._name(listener) != main._name(other)
    assert socket.gethostname() in main._name(listener)


async def test_a_start_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(main, "_START", 0.02)
    caplog.set_level(logging.INFO, main.logger.name)
    fake: Any = Fake()

    def start() -> None:
        while not caplog.messages:
            time.sleep(0.01)

    fake.start = start
    assert await main._started(fake, asyncio.Event())
    assert caplog.messages[0] == "Still waiting for GPUs"
