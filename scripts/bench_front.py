"""Tokens a second that the front of deployment=ray passes on. See scripts/bench-front."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import time
from collections.abc import AsyncGenerator
from multiprocessing.connection import Connection

import httpx
import uvloop

from tgi_server.config.schema import ServerConfig
from tgi_server.launcher import sockets
from tgi_server.replicas.call import Back, Call, Head
from tgi_server.replicas.front import Front
from tgi_server.replicas.returns import Returns, bringing
from tgi_server.router.main import Server
from tgi_server.telemetry.metrics import Metrics

HEAD = Head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
EVENT = (
    b'data: {"index":17,"token":{"id":1234,"text":" token","logprob":-1.25,"special":false},"generated_text":null}\n\n'
)


def replica(asked: Connection, tokens: int) -> None:
    """Brings an answer to each place that it is told, a token at a time."""

    async def bring(back: Back) -> None:
        async with bringing(back, HEAD) as writer:
            for _ in range(tokens):
                writer.write(EVENT)
                await writer.drain()
                await asyncio.sleep(0.001)

    async def work() -> None:
        tasks = set()
        while (back := await asyncio.to_thread(asked.recv)) is not None:
            tasks.add(asyncio.ensure_future(bring(back)))
        await asyncio.gather(*tasks)

    uvloop.run(work())


def clients(port: int, count: int, requests: int) -> None:
    """Ask and read, so many at a time."""
    left = iter(range(requests))

    async def one(client: httpx.AsyncClient) -> None:
        for _ in left:
            async with client.stream("POST", "/generate_stream", json={"inputs": "x" * 2000}) as answer:
                async for _ in answer.aiter_raw():
                    pass

    async def work() -> None:
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as client:
            await asyncio.gather(*(one(client) for _ in range(count)))

    uvloop.run(work())


class Fake:
    """Replicas of whom one process does the work."""

    running = 2

    def __init__(self, returns: Returns, asked: Connection) -> None:
        self._returns = returns
        self._asked = asked

    async def send(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        """See `front.Replicas`."""
        async with self._returns.expected() as (back, arriving):
            self._asked.send(back)
            arrived = await arriving
            yield arrived.head
            async for piece in arrived.body():
                yield piece

    async def all(self, call: Call) -> AsyncGenerator[tuple[Head, bytes], None]:
        """See `front.Replicas`."""
        yield HEAD, b""

    async def metrics(self) -> dict[str, str]:
        """See `front.Replicas`."""
        return {}


def used() -> float:
    """Processor seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(count: int, requests: int, tokens: int) -> None:
    config = ServerConfig(hostname="127.0.0.1", port=0)
    returns, metrics = Returns(), Metrics(1024, 2048)
    context = multiprocessing.get_context("spawn")
    asked, told = context.Pipe()
    with sockets.bind(config) as listener:
        async with returns.listening(None):
            server = Server(Front(Fake(returns, told), 1 << 20, metrics), config, metrics)  # type: ignore[arg-type]
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            port = listener.getsockname()[1]
            children = [context.Process(target=replica, args=(asked, tokens), daemon=True)]
            children.append(context.Process(target=clients, args=(port, count, requests), daemon=True))
            for child in children:
                child.start()
            began, before = time.monotonic(), used()
            await asyncio.to_thread(children[1].join)
            seconds, own = time.monotonic() - began, used() - before
            told.send(None)
            server.should_exit = True
            await serving
    total = requests * tokens
    print(
        f"{total} tokens in {seconds:.1f} s; the front used {1e6 * own / total:.0f} µs of a processor for each: "
        f"{total / own:.0f} tokens/s with one of its own"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-front", description=__doc__)
    parser.add_argument("--clients", type=int, default=32, help="at a time [32]")
    parser.add_argument("--requests", type=int, default=400, help="in all [400]")
    parser.add_argument("--tokens", type=int, default=200, help="of an answer [200]")
    given = parser.parse_args()
    uvloop.run(measure(given.clients, given.requests, given.tokens))


if __name__ == "__main__":
    main()
