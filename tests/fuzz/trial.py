"""Many cases against one server, and what has to hold meanwhile and afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx

from tests.fuzz.client import LONGEST_ANSWER, fault, perform
from tests.fuzz.server import RECEIVE_TIMEOUT, Tried
from tests.fuzz.wire import Case, Cases

SIDE_BY_SIDE = 24
"""Clients at a time."""
EVERY = 100
"""Cases between two good requests."""
GOOD = {"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 8}}
BAD_LINE = re.compile(r"Traceback|Exception|\bERROR\b|never (retrieved|awaited)|CRITICAL")
"""What no log holds while the shards are well."""
SETTLES = 10.0
"""Seconds after which nothing of the last clients is left."""


@dataclass
class Findings:
    """What a trial found."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    good: int = 0
    slowest: tuple[float, int] = (0.0, 0)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)


def case(document: dict[str, object], seed: int, index: int) -> Case:
    """Case number `index`, the same whenever it is asked for."""
    return Cases(document, random.Random(f"{seed}-{index}"), 1.5 * RECEIVE_TIMEOUT).next()


async def run(server: Tried, count: int, seed: int, watch: Callable[[int], None] = lambda done: None) -> Findings:
    """`count` cases. Memory, descriptors and threads are compared with what they were after the first quarter."""
    found = Findings()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
        document = (await client.get("/api-doc/openapi.json")).json()
        expected = (await client.post("/generate", json=GOOD)).json()
        for begin, end in ((0, count // 4), (count // 4, count)):
            numbers = iter(range(begin, end))
            workers = [
                _work(server, document, seed, numbers, found, client, expected, watch) for _ in range(SIDE_BY_SIDE)
            ]
            await asyncio.gather(*workers)
            await _settle(server, found)
            found.before, found.after = found.after, usage(server)
    found.faults += grown(found.before, found.after)
    found.faults += [f"log: {line}" for line in server.log().splitlines() if BAD_LINE.search(line)]
    return found


async def _work(
    server: Tried,
    document: dict[str, object],
    seed: int,
    numbers: Iterator[int],
    found: Findings,
    client: httpx.AsyncClient,
    expected: object,
    watch: Callable[[int], None],
) -> None:
    for index in numbers:
        await _one(server, case(document, seed, index), index, found)
        if index % EVERY == EVERY - 1:
            watch(index + 1)
            answer = await client.post("/generate", json=GOOD)
            if answer.status_code != 200 or answer.json() != expected:
                found.faults.append(
                    f"case {index}: the good request after it got {answer.status_code} {answer.text[:200]}"
                )
            found.good += 1


async def _one(server: Tried, tried: Case, index: int, found: Findings) -> None:
    begun = time.monotonic()
    try:
        answers = await perform(
            "127.0.0.1", server.port, tried, RECEIVE_TIMEOUT + 3 if tried.unanswered else LONGEST_ANSWER
        )
    except OSError as error:
        found.faults.append(f"case {index}, {tried.name}: {error}")
        return
    found.slowest = max(found.slowest, (time.monotonic() - begun, index))
    found.statuses.update(answers.statuses)
    found.kinds[tried.name] += 1
    if wrong := fault(tried, answers):
        sent = b"".join(piece for piece in tried.pieces if isinstance(piece, bytes))
        found.faults.append(
            f"case {index}, {tried.name}: {wrong}; sent {sent[:300]!r}; got {bytes(answers.data[-300:])!r}"
        )


async def _settle(server: Tried, found: Findings) -> None:
    """Wait until nothing is worked on."""
    deadline = time.monotonic() + SETTLES
    while busy := {name: value for name, value in server.work().items() if value and name != "tasks"}:
        if time.monotonic() > deadline:
            found.faults.append(f"still at work when all clients are gone: {json.dumps(busy)}")
            return
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)


def usage(server: Tried) -> dict[str, float]:
    """What the server takes."""
    processes = server.processes()
    told = {"tasks": server.work().get("tasks", 0.0), "processes": float(len(processes))}
    told["MB"] = sum(process.memory_info().rss for process in processes) / 1e6
    told["descriptors"] = float(sum(process.num_fds() for process in processes))
    return told | {"threads": float(sum(process.num_threads() for process in processes))}


def grown(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """What takes more than it did: memory by more than a tenth, anything else by more than what comes and goes."""
    room = {name: max(20.0, 0.1 * value) if name == "MB" else 3.0 for name, value in before.items()}
    return [
        f"{name} grew from {before[name]:.0f} to {after[name]:.0f}"
        for name in before
        if after[name] > before[name] + room[name]
    ]
