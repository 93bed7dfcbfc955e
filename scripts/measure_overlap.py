"""The share of router and RPC in a decode step, on the demo model under load. See scripts/measure-overlap."""

from __future__ import annotations

import argparse
import asyncio
import time

import psutil

from tests.integration.server import Server, series
from tgi_server.bench.http import Target
from tgi_server.bench.load import Run, measure
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.workload import Workload

NEW_TOKENS = 1900
"""More than a client can get meanwhile: all of them generate until the measurement ends."""
LIMIT = 30.0
"""Seconds that may pass until all are running."""

Numbers = dict[str, float]
"""What the server has counted, by the series of /metrics, and besides `now` and the CPU time of its parts (seconds)."""


class Observed:
    """A server and the processes that matter."""

    def __init__(self, server: Server) -> None:
        self._client = server.client
        (router,), (shard,) = server.named("tgi_server.router.main"), server.named("tgi_server.shard.main")
        self._processes = {"router": router, "shard": shard, "load": psutil.Process()}

    async def look(self) -> Numbers:
        """All numbers at this moment."""
        numbers = series((await asyncio.to_thread(self._client.get, "/metrics")).text)
        numbers["now"] = time.monotonic()
        for name, process in self._processes.items():
            times = process.cpu_times()
            numbers[name] = times.user + times.system
        return numbers


def decoding(numbers: Numbers, clients: int) -> bool:
    """All of them, and no prompt is computed."""
    begun, done = (numbers.get(f'tgi_batch_inference_{what}{{method="prefill"}}') for what in ("count", "success"))
    return numbers.get("tgi_batch_current_size") == clients and begun == done


async def all_running(observed: Observed, load: asyncio.Task[Run], clients: int) -> None:
    """Wait until every client's stream has begun and no prefill is under way."""
    until = time.monotonic() + LIMIT
    while not decoding(await observed.look(), clients):
        if load.done():
            load.result()
        if time.monotonic() > until:
            raise SystemExit(f"Error: {clients} streams did not run at the same time within {LIMIT:g} s")
        await asyncio.sleep(0.2)


async def steady(server: Server, clients: int, seconds: float) -> Numbers:
    """What changed within `seconds` in which `clients` streams were decoded and nothing else was done."""
    observed = Observed(server)
    work = Workload.of(BenchOptions(clients=str(clients), requests=clients, new_tokens=NEW_TOKENS, warmup=0))
    target = Target("127.0.0.1", server.port)
    load = asyncio.create_task(measure(target, None, work, clients, 0, lambda *_: None))
    try:
        await all_running(observed, load, clients)
        before = await observed.look()
        await asyncio.sleep(seconds)
        after = await observed.look()
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    change = {name: value - before.get(name, 0.0) for name, value in after.items()}
    if not decoding(after, clients) or change['tgi_batch_inference_count{method="prefill"}']:
        raise SystemExit("Error: some clients were done before the time was; use a smaller --duration")
    return change


def report(change: Numbers, clients: int) -> str:
    """The measurement in a few lines."""

    def duration(name: str, part: str) -> float:
        return change[f'tgi_batch_{name}_duration_{part}{{method="decode"}}']

    steps = duration("forward", "count")
    forward = duration("forward", "sum") / steps
    wait = duration("wait", "sum") / duration("wait", "count")
    length = forward + wait
    router, shard, load = (change[name] / steps for name in ("router", "shard", "load"))
    return "\n".join(
        [
            f"{clients} streams, {steps:.0f} decode steps in {change['now']:.1f} s:",
            f"the device works {forward * 1e3:.2f} ms a step and waits {wait * 1e3:.3f} ms for the next plan, "
            f"{wait / length:.1%} of both, which are {length * steps / change['now']:.1%} of the time",
            f"CPU time of the router: {router * 1e3:.2f} ms a step ({router / length:.1%} of its length), "
            f"{router / clients * 1e6:.0f} us a token",
            f"CPU time besides, a step: shard {shard * 1e3:.1f} ms, load generator {load * 1e3:.2f} ms",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="measure-overlap", description=__doc__)
    parser.add_argument("--clients", type=int, default=32, help="streams at a time [%(default)s]")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of the measurement [%(default)s]")
    arguments = parser.parse_args()
    with Server("model=smollm2") as server:
        server.generate("warm up", max_new_tokens=8)
        change = asyncio.run(steady(server, arguments.clients, arguments.duration))
    print(report(change, arguments.clients))


if __name__ == "__main__":
    main()
