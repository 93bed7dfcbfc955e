"""Tokens a second of several servers that run side by side and are asked in turns."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.quantisation.results import Rates
from tgi_server.bench.http import BenchError, Target
from tgi_server.bench.load import find_model, measure
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.summary import summarise
from tgi_server.bench.workload import Workload

PROMPT = "80"
WARM = 8
"""Tokens of each answer that warms up: enough to record a step."""
FEW = {1: 2}
"""Requests of a measurement where it is not one a client."""


@dataclass(frozen=True)
class Asked:
    """A server that runs."""

    name: str
    port: int


def rates(servers: Sequence[Asked], clients: Sequence[int], rounds: int, new_tokens: int) -> Rates:
    """Measure each server with each number of clients in each round.

    Raises BenchError when a request fails or a server ends an answer early.
    """
    return asyncio.run(_rates(servers, clients, rounds, new_tokens))


async def _rates(servers: Sequence[Asked], clients: Sequence[int], rounds: int, new_tokens: int) -> Rates:
    models = {each.name: await find_model(_target(each)) for each in servers}
    for server in servers:
        for count in clients:
            await _one(server, models[server.name], count, -1 - count, WARM)
    measured: Rates = {each.name: {str(count): [] for count in clients} for each in servers}
    for turn in range(rounds):
        for count in clients:
            for server in servers if turn % 2 == 0 else reversed(servers):  # what drifts meets all of them
                number = turn * len(clients) + list(clients).index(count)
                rate = await _one(server, models[server.name], count, number, new_tokens)
                measured[server.name][str(count)].append(round(rate, 2))
                print(f"round {turn + 1}, {count} clients, {server.name}: {rate:.1f} tokens/s", file=sys.stderr)
    return measured


async def _one(server: Asked, model: str | None, clients: int, number: int, new_tokens: int) -> float:
    """Tokens a second while each client gets its answers, from the first request to the last token.

    Args:
        number: of the measurement: prompts differ from one to another, and are the same for all servers.
    """
    requests = max(clients, FEW.get(clients, 0))
    work = Workload.of(
        BenchOptions(
            clients=str(clients), requests=requests, prompt_tokens=PROMPT, new_tokens=new_tokens, warmup=0
        )
    )  # fmt: skip
    run = await measure(_target(server), model, work, clients, number, lambda *_: None)
    summary = summarise(clients, run.records, work.duration)
    if summary.first_error:
        raise BenchError(f"{server.name}: {summary.failed} requests failed; the first: {summary.first_error}")
    if summary.new_tokens != new_tokens:
        raise BenchError(f"{server.name}: answers have {summary.new_tokens:g} tokens, {new_tokens} were asked for")
    return summary.tokens_per_second


def _target(server: Asked) -> Target:
    return Target("127.0.0.1", server.port)
