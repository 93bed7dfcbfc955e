"""The router behind real sockets: framing, clients that go away, shutdown; at last as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.listening import listening, send, until
from tests.router_app import TEMPLATE, TOKENIZER, says, started
from tgi_server.config import load
from tgi_server.config.schema import Launch, NetworkOptions, Resolved, ServerConfig
from tgi_server.errors import ConfigError
from tgi_server.router.main import serve

LONG: dict[str, Any] = {"inputs": "x", "parameters": {"max_new_tokens": 1500}}
SLOW = 0.02
"""Seconds a step; `LONG` takes half a minute."""


def grace(seconds: float) -> NetworkOptions:
    return NetworkOptions(shutdown_timeout=seconds)


async def read_chunks(reader: asyncio.StreamReader) -> tuple[str, list[bytes]]:
    """Head and chunks of a chunked answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    chunks = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
    return head, chunks


async def test_stream_framing() -> None:
    async with listening(choose=says("Paris, été 😀."), step_seconds=0.005) as (_, port):
        reader, writer = await send(port, "/generate_stream", {"inputs": "x", "parameters": {}})
        head, chunks = await read_chunks(reader)
        assert "200 ok" in head and "content-type: text/event-stream" in head and "transfer-encoding: chunked" in head
        assert all(chunk.startswith(b"data: {") and chunk.endswith(b"}\n\n") for chunk in chunks)
        events = [json.loads(line[6:]) for line in b"".join(chunks).decode().split("\n\n") if line]
        assert [event["index"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["generated_text"] == "Paris, été 😀."
        # The connection is good for another request.
        data = b'{"prompt": "x", "stream": true, "max_tokens": 2}'
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
        )
        writer.write(head.encode() + b"\r\n\r\n" + data)
        _, chunks = await read_chunks(reader)
        assert b"".join(chunks).endswith(b"\n\ndata: [DONE]\n\n")
        writer.close()
        await writer.wait_closed()


@pytest.mark.alone
async def test_tokens_are_sent_as_they_come() -> None:
    async with listening(step_seconds=0.05) as (_, port):
        started_at = time.monotonic()
        reader, writer = await send(port, "/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": 40}})
        await reader.readuntil(b"data: ")
        assert time.monotonic() - started_at < 1
        writer.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate_stream", LONG),
        ("/generate", LONG),
        ("/", LONG),
        ("/v1/completions", {"prompt": "x", "max_tokens": 1500}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 1500, "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1500, "stream": True}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 1500}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 1500, "stream": True}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1500}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1500, "stream": True}),
    ],
)
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_goes_away_frees_its_place(path: str, body: Any, queued: bool, reset: bool) -> None:
    async with listening(step_seconds=SLOW, max_batch_size=1, max_concurrent_requests=2) as (router, port):
        other = await send(port, "/generate", LONG) if queued else None
        if queued:
            await until(lambda: router.engine.running == 1)
        _, writer = await send(port, path, body)
        await until(lambda: router.engine.running + router.engine.waiting == 1 + queued)
        if not queued:
            await until(lambda: len(router.shards.plans) > 3)
        plans = len(router.shards.plans)
        if reset:
            writer.transport.abort()
        else:
            writer.close()
        await until(lambda: router.engine.running + router.engine.waiting == queued)
        assert len(router.shards.plans) <= plans + 3  # what was in flight, and one that raced with the news
        assert router.metric('tgi_request_failure{err="dropped"}') == 1
        if other is not None:
            other[1].close()
            await until(lambda: router.engine.running == 0)
        assert router.metric("tgi_request_success") == 0
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post("/generate", json={"inputs": "x", "parameters": {"max_new_tokens": 2}})
            assert answer.status_code == 200


async def test_a_reader_that_sleeps_and_leaves_frees_its_place() -> None:
    async with listening(step_seconds=0.001, max_top_n_tokens=300) as (router, port):
        body = {"inputs": "x", "parameters": {"max_new_tokens": 2000, "top_n_tokens": 300}}
        _, writer = await send(port, "/generate_stream", body)
        await until(lambda: len(router.shards.plans) > 600, 30)  # 10 MB: more than the sockets hold
        writer.transport.abort()
        await until(lambda: router.engine.running == 0)
        assert router.metric('tgi_request_failure{err="dropped"}') == 1


async def test_many_clients_and_max_batch_size() -> None:
    async with listening(step_seconds=0.001, max_batch_size=4) as (router, port):
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=30) as client:
            body = {"inputs": "x", "parameters": {"max_new_tokens": 5}}
            answers = await asyncio.gather(*(client.post("/generate", json=body) for _ in range(64)))
        assert {answer.status_code for answer in answers} == {200}
        assert max(len(plan.ids) for plan in router.shards.plans) <= 4
        assert router.metric("tgi_request_success") == 64


async def test_draining_lets_running_requests_finish() -> None:
    async with started(step_seconds=SLOW) as router:
        listener = socket.create_server(("127.0.0.1", 0))
        port, stop = listener.getsockname()[1], asyncio.Event()
        serving = asyncio.create_task(serve(router.app, router.engine, [listener], stop, grace(10)))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            body = {"inputs": "x", "parameters": {"max_new_tokens": 40}}
            running = asyncio.create_task(client.post("/generate", json=body))
            await until(lambda: router.engine.running == 1)
            stop.set()
            await asyncio.sleep(0.05)
            assert (await client.get("/health")).status_code == 503
            refused = await client.post("/generate", json=body)
            assert (refused.status_code, refused.json()["error_type"]) == (503, "overloaded")
            answer = await running
            assert answer.status_code == 200 and answer.headers["x-generated-tokens"] == "40"
        assert await serving == 0


async def test_draining_ends_what_takes_too_long() -> None:
    async with started(step_seconds=SLOW) as router:
        listener = socket.create_server(("127.0.0.1", 0))
        port, stop = listener.getsockname()[1], asyncio.Event()
        serving = asyncio.create_task(serve(router.app, router.engine, [listener], stop, grace(0.1)))
        reader, writer = await send(port, "/generate_stream", LONG)
        await until(lambda: router.engine.running == 1)
        stop.set()
        _, chunks = await read_chunks(reader)
        assert b'"error_type":"generation"' in chunks[-1]
        assert await serving == 0
        writer.close()


async def test_a_lost_shard_ends_the_router() -> None:
    async with started(step_seconds=SLOW) as router:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        serving = asyncio.create_task(serve(router.app, router.engine, [listener], asyncio.Event(), grace(10)))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            running = asyncio.create_task(client.post("/generate", json=LONG))
            await until(lambda: router.engine.running == 1)
            router.shards.kill("shard 0 died")
            answer = await running
            assert answer.status_code == 424 and "shard 0 died" in answer.json()["error"]
        assert await serving == 1


async def test_a_port_that_another_socket_took_meanwhile() -> None:
    async with started() as router:
        with socket.socket() as mine, socket.socket() as other:
            for one in (mine, other):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            mine.bind(("127.0.0.1", 0))
            other.bind(mine.getsockname())
            other.listen()
            with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1 port .*in use"):
                await serve(router.app, router.engine, [mine], asyncio.Event(), grace(1))


SHARD = """
import sys
from dataclasses import replace
from tgi_server.rpc.fake import FAKE_INFO, FakeModel
from tgi_server.rpc.server import serve
import time
info = replace(FAKE_INFO, vocab_size=340)
model = FakeModel(info)
def step(plan):
    time.sleep(0.01)
    return model.step(plan)
serve(sys.argv[1] + "-0", info, step, lambda: None, 0)
"""


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return tmp_path


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SHARD, str(tmp_path / "shard")])
    while not (tmp_path / "shard-0").exists():
        assert process.poll() is None
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


class RouterProcess:
    """`python -m tgi_server.router.main` on a port of its own."""

    def __init__(self, model_dir: Path, **options: Any) -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config = ServerConfig(shard_uds_path=str(model_dir / "shard"), **options)
        launch = Launch(config, Resolved(model_dir=str(model_dir), listen_fd=listener.fileno()))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tgi_server.router.main"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            pass_fds=[listener.fileno()],
        )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(load.dump(launch))
        self.process.stdin.close()
        self.process.stdin = None
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30)
        listener.close()

    def __enter__(self) -> RouterProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()
            with suppress(httpx.TransportError):
                if self.client.get("/health").status_code == 200:
                    return
            time.sleep(0.05)
        raise TimeoutError("the router is not ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_serves_and_drains(model_dir: Path, shard: subprocess.Popen[bytes], number: int) -> None:
    with RouterProcess(model_dir) as router:
        router.wait_ready()
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 30, "stream": True}
        with router.client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: {")
            router.process.send_signal(number)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        out, err = router.process.communicate(timeout=10)
        assert (router.process.returncode, err) == (0, "")
        assert "Serving on 127.0.0.1" in out and "Success" in out


def test_the_process_that_waits_for_its_shards_stops_at_once(model_dir: Path) -> None:
    with RouterProcess(model_dir) as router:
        assert router.process.stdout is not None
        assert "Chat template" in router.process.stdout.readline()  # said just before it connects
        router.process.send_signal(signal.SIGTERM)
        _, err = router.process.communicate(timeout=5)
        assert (router.process.returncode, err) == (0, "")


def test_the_process_is_small(model_dir: Path, shard: subprocess.Popen[bytes]) -> None:
    with RouterProcess(model_dir) as router:
        router.wait_ready()
        for _ in range(20):
            assert (
                router.client.post(
                    "/generate", json={"inputs": "x" * 100, "parameters": {"max_new_tokens": 2}}
                ).status_code
                == 200
            )
        assert psutil.Process(router.process.pid).memory_info().rss < 120 * 2**20


def test_the_process_ends_with_its_shard(model_dir: Path, shard: subprocess.Popen[bytes]) -> None:
    with RouterProcess(model_dir) as router:
        router.wait_ready()
        shard.kill()
        out, err = router.process.communicate(timeout=20)
        assert (router.process.returncode, err) == (1, "")
        assert "shard 0" in out


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json does not exist"),
        ("tokenizer.json", "{", "tokenizer.json cannot be read"),
        ("own.json", "{", "tokenizer_config_path="),
    ],
)
def test_what_stops_the_start_is_one_line(model_dir: Path, file: str, content: str | None, message: str) -> None:
    if content is None:
        (model_dir / file).unlink()
    else:
        (model_dir / file).write_text(content)
    options = {"tokenizer_config_path": str(model_dir / file)} if file == "own.json" else {}
    with RouterProcess(model_dir, **options) as router:
        _, err = router.process.communicate(timeout=20)
        assert router.process.returncode == 1
        assert err.startswith("Error: ") and message in err and err.count("\n") == 1
