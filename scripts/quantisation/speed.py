"""Tokens a second of several servers that run side by side and are asked in turns."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scripts.quantisation.results import Rates
from tgi_server.bench.http import BenchError, Target
from tgi_server.bench.load import find_model, measure
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.summary import summarise
from tgi_server.bench.workload import Workload

PROMPT = "80"
WARM = 8
"""Tokens of each answer that warms up: enough to record a step."""


@dataclass(frozen=True)
class Asked:
    """A server that runs, and a way to ask it.

    Attributes:
        fields: of the load generator, where they are not the usual ones.
        turns: requests of each client, by the number of clients, where it is not one.
    """

    name: str
    port: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    turns: Mapping[int, int] = field(default_factory=dict)


Told = Callable[[Asked, int], None]
"""Called after each measurement with the server and the number of clients, which is 0 where it only warmed up."""


def rates(servers: Sequence[Asked], rounds: Mapping[int, int], new_tokens: int, told: Told = lambda *_: None) -> Rates:
    """Measure each server with each number of clients in each round.

    Args:
        rounds: of each number of clients.

    Raises BenchError when a request fails or a server ends an answer early.
    """
    return asyncio.run(_rates(servers, rounds, new_tokens, told))


async def _rates(servers: Sequence[Asked], rounds: Mapping[int, int], new_tokens: int, told: Told) -> Rates:
    models = {each.name: await find_model(_target(each)) for each in servers}
    for server in servers:
        for count in rounds:
            warming = replace(server, turns={})
            await _one(warming, models[server.name], count, -1 - count, min(WARM, new_tokens))
            await asyncio.to_thread(told, server, 0)
    measured: Rates = {each.name: {str(count): [] for count in rounds} for each in servers}
    for turn in range(max(rounds.values())):
        for place, count in enumerate(rounds):
            if turn >= rounds[count]:
                continue
            for server in servers if turn % 2 == 0 else reversed(servers):  # what drifts meets all of them
                rate = await _one(server, models[server.name], count, turn * len(rounds) + place, new_tokens)
                measured[server.name][str(count)].append(round(rate, 2))
                await asyncio.to_thread(told, server, count)
                print(f"round {turn + 1}, {count} clients, {server.name}: {rate:.1f} tokens/s", file=sys.stderr)
    return measured


async def _one(server: Asked, model: str | None, clients: int, number: int, new_tokens: int) -> float:
    """Tokens a second while each client gets its answers, from the first request to the last token.

    Args:
        number: of the measurement: prompts differ from one to another, and are the same for all servers.
    """
    requests = clients * server.turns.get(clients, 1)
    usual: dict[str, Any] = {"clients": str(clients), "prompt_tokens": PROMPT, "new_tokens": new_tokens, "warmup": 0}
    work = Workload.of(BenchOptions(**{**usual, "requests": requests, **server.fields}))
    run = await measure(_target(server), model, work, clients, number, lambda *_: None)
    summary = summarise(clients, run.records, work.duration)
    if summary.first_error:
        raise BenchError(f"{server.name}: {summary.failed} requests failed; the first: {summary.first_error}")
    if summary.new_tokens != new_tokens:
        raise BenchError(f"{server.name}: answers have {summary.new_tokens:g} tokens, {new_tokens} were asked for")
    return summary.tokens_per_second


def _target(server: Asked) -> Target:
    return Target("127.0.0.1", server.port)
