"""What the router alone delivers: real HTTP, engine and tokenizer over shards that take no time."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
from multiprocessing.connection import Connection

import psutil
import uvloop

from tests.router_app import SENTENCES, says, started
from tgi_server.bench.http import Target
from tgi_server.bench.load import measure
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.report import table
from tgi_server.bench.summary import summarise
from tgi_server.bench.workload import Workload
from tgi_server.config.schema import NetworkOptions
from tgi_server.router.main import serve


async def _router(ready: Connection, step_seconds: float) -> None:
    write = says(f" {' '.join(SENTENCES)}", then_eos=False)  # text as of a model: noise has bytes that are no character
    async with started(write, step_seconds, num_blocks=1 << 16, max_concurrent_requests=1024) as router:
        listener = socket.create_server(("127.0.0.1", 0))
        ready.send(listener.getsockname()[1])
        router.shards.plans = _Forgetful()
        await serve(router.app, router.engine, [listener], asyncio.Event(), NetworkOptions(shutdown_timeout=0))


class _Forgetful(list):  # type: ignore[type-arg]
    """Plans are kept for tests; here they would only fill the memory."""

    def append(self, plan: object) -> None:
        pass


def _run_router(ready: Connection, step_seconds: float) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_router(ready, step_seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--duration", type=float, default=8.0)
    parser.add_argument("--new-tokens", type=int, default=256)
    # Without a delay the shards run ahead and several tokens go into one write; a device that computes prevents that.
    parser.add_argument("--step-ms", type=float, default=0.0, help="how long the imagined device takes a step")
    arguments = parser.parse_args()
    options = BenchOptions(
        clients=str(arguments.clients), duration=arguments.duration, new_tokens=arguments.new_tokens, warmup=0
    )
    parent, child = multiprocessing.Pipe()
    router = multiprocessing.get_context("spawn").Process(
        target=_run_router, args=(child, arguments.step_ms / 1000), daemon=True
    )
    router.start()
    try:
        _measure(psutil.Process(router.pid), Target("127.0.0.1", parent.recv()), Workload.of(options))
    finally:
        router.kill()
        router.join()


def _measure(router: psutil.Process, target: Target, work: Workload) -> None:
    clients = work.clients[0]
    before, own_before = sum(router.cpu_times()[:2]), sum(psutil.Process().cpu_times()[:2])
    run = asyncio.run(measure(target, None, work, clients, 0, lambda *_: None))
    spent, own = sum(router.cpu_times()[:2]) - before, sum(psutil.Process().cpu_times()[:2]) - own_before
    tokens = sum(record.tokens for record in run.records)
    print(table([summarise(clients, run.records, work.duration)]))
    print(f"CPU time a token: router {1e6 * spent / tokens:.1f} us, load generator {1e6 * own / tokens:.1f} us")


if __name__ == "__main__":
    main()
