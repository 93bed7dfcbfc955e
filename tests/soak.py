"""A server under more clients than it takes, for minutes. See scripts/soak."""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import psutil
import uvloop

from tests.fuzz import server as servers
from tests.fuzz.server import Tried
from tests.fuzz.trial import BAD_LINE
from tgi_server.bench.completion import Completions
from tgi_server.bench.http import Pool, Target

PLACES = 128
"""`max_concurrent_requests`."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds that a client waits after a 429, twice as long after each one more: as the OpenAI library does."""
LEAST_GOODPUT = 0.95
"""Part of the goodput without a crowd."""
WARM = 60.0
"""Seconds after which memory is not to grow any more."""
SETTLES = 20.0
"""Seconds after which nothing of the last clients is left."""
WORDS = [
    "time",
    "person",
    "year",
    "way",
    "day",
    "thing",
    "man",
    "world",
    "life",
    "hand",
    "part",
    "child",
    "eye",
    "point",
]


@dataclass
class Phase:
    """What so many clients met.

    Attributes:
        tokens: seconds since the beginning, and tokens of each whole answer.
        memory: seconds since the beginning, and bytes of each process, with its part of those that it shares.
        work: what the server said now and then that it was busy with.
        spent: seconds that the server computed.
        asking: seconds that the clients did, on the same machine.
    """

    clients: int
    seconds: float
    statuses: Counter[str] = field(default_factory=Counter)
    tokens: list[tuple[float, int]] = field(default_factory=list)
    memory: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    work: list[dict[str, float]] = field(default_factory=list)
    spent: float = 0.0
    asking: float = 0.0

    @property
    def warm(self) -> float:
        """Seconds from which on it counts."""
        return min(WARM, self.seconds / 3)

    @property
    def goodput(self) -> float:
        """Tokens a second of whole answers."""
        return sum(count for at, count in self.tokens if self.warm <= at < self.seconds) / (self.seconds - self.warm)

    def growth(self) -> dict[str, float]:
        """By what part each process grew, from the mean of a while after it was warm to that of the end."""
        span = (self.seconds - self.warm) / 5
        first = self._mean(self.warm, self.warm + span)
        last = self._mean(self.seconds - span, self.seconds)
        return {name: last[name] / first[name] - 1 for name in first}

    def _mean(self, begin: float, end: float) -> dict[str, float]:
        taken = [told for at, told in self.memory if begin <= at <= end]
        return {name: statistics.fmean(told[name] for told in taken) for name in taken[0]}


async def phase(tried: Tried, clients: int, seconds: float, new_tokens: int) -> Phase:
    """Closed-loop clients: each sends when its answer is complete, or a moment after it was refused."""
    made = Phase(clients, seconds)
    pool = Pool(Target("127.0.0.1", tried.port))
    asking = Completions(pool, None, {"temperature": 0, "ignore_eos": True})
    began, spent, own = time.monotonic(), _computed(tried), time.process_time()
    watching = asyncio.create_task(_watch(tried, made, began))
    try:
        await asyncio.gather(*(_client(asking, made, began, new_tokens, number) for number in range(clients)))
    finally:
        watching.cancel()
        pool.close()
    made.spent, made.asking = _computed(tried) - spent, time.process_time() - own
    return made


def _computed(tried: Tried) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in tried.processes())


async def _client(asking: Completions, made: Phase, began: float, new_tokens: int, number: int) -> None:
    chance, pause = random.Random(number), FIRST_PAUSE
    while (now := time.monotonic() - began) < made.seconds:
        prompt = " ".join(chance.choices(WORDS, k=chance.randint(5, 40)))
        record = await asking.ask(prompt, new_tokens, began, now, made.seconds + 300)
        status = "200" if record.error is None else record.error.removeprefix("status ").partition(":")[0]
        made.statuses[status] += 1
        if record.error is None:
            made.tokens.append((record.end, record.tokens))
            pause = FIRST_PAUSE
        else:
            await asyncio.sleep(min(pause * chance.uniform(0.75, 1), max(0.0, made.seconds - record.end)))
            pause = min(LONGEST_PAUSE, 2 * pause)


async def _watch(tried: Tried, made: Phase, began: float) -> None:
    while True:
        made.memory.append((time.monotonic() - began, await asyncio.to_thread(memory, tried)))
        made.work.append(await asyncio.to_thread(tried.work))
        await asyncio.sleep(1)


def memory(tried: Tried) -> dict[str, int]:
    """Bytes of each process, with its part of what it shares."""
    return {_name(process): process.memory_full_info().pss for process in tried.processes()}


def _name(process: psutil.Process) -> str:
    found = re.search(r"tgi_server\.(\w+)\.main(?:.*--rank (\d+))?", " ".join(process.cmdline()))
    return " ".join(filter(None, found.groups())) if found else "launcher"


async def idle(tried: Tried) -> dict[str, float]:
    """What the server holds once it is idle again, after which of a few seconds it may be."""
    deadline = time.monotonic() + SETTLES
    while any(_busy(tried).values()) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    await asyncio.sleep(1)
    held = _busy(tried) | {"tasks": tried.work().get("tasks", 0.0)}
    for process in tried.processes():
        held |= {
            f"descriptors of {_name(process)}": process.num_fds(),
            f"threads of {_name(process)}": process.num_threads(),
        }
    return held


def _busy(tried: Tried) -> dict[str, float]:
    return {name: value for name, value in tried.work().items() if name != "tasks"}


def faults(
    many: Phase, few: Phase, before: Mapping[str, float], after: Mapping[str, float], log: str, least: float
) -> list[str]:
    """What is not as it should be; `least` is the part of the goodput with few clients that has to be left."""
    found = [
        f"{made.clients} clients got {status} {count} times"
        for made in (many, few)
        for status, count in made.statuses.items()
        if status not in ("200", "429")
    ]
    found += [f"the memory of {name} grew by {part:.1%}" for name, part in many.growth().items() if part >= 0.02]
    if not few.goodput or many.goodput < least * few.goodput:
        found.append(f"goodput is {many.goodput:.1f} tokens/s, {few.goodput:.1f} with {few.clients} clients")
    found += [f"{name}: {after[name]:g} are left, {before[name]:g} were there before"
              for name in before if after[name] > before[name]]  # fmt: skip
    return found + [f"log: {line}" for line in log.splitlines() if BAD_LINE.search(line)]


async def trial(tried: Tried, clients: int, seconds: float, new_tokens: int, least: float) -> list[str]:
    """Both phases at one server; prints what they did and returns what is not as it should be (`faults`)."""
    await phase(tried, PLACES, 5.0, new_tokens)  # what is made once, threads above all, is there afterwards
    before = await idle(tried)
    many = await phase(tried, clients, seconds, new_tokens)
    after = await idle(tried)
    few = await phase(tried, PLACES, seconds, new_tokens)
    for made in (many, few):
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(made.statuses.items()))
        grown = ", ".join(f"{name} {part:+.2%}" for name, part in made.growth().items())
        busy = ", ".join(f"{name} {statistics.fmean(told[name] for told in made.work):.0f}" for name in made.work[0])
        print(f"{made.clients} clients, {seconds:g} s: {counts}; {made.goodput:.1f} tokens/s; memory {grown}")
        print(f"    computed for {made.spent:.1f} s, the clients for {made.asking:.1f} s; on average {busy}")
    if few.goodput:
        print(f"goodput with {clients} clients: {many.goodput / few.goodput:.3f} of that with {PLACES}")
    print("idle before:", _told(before), "- after:", _told(after))
    return faults(many, few, before, after, tried.log(), least)


def _told(held: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in held.items())


def _server(arguments: argparse.Namespace) -> AbstractContextManager[Tried]:
    if arguments.fake:
        return servers.fake(max_concurrent_requests=PLACES, step_seconds=0.02)
    # else prompts that are kept fill what is planned for the caches in the first minutes, which looks like a leak
    return servers.demo(f"max_concurrent_requests={PLACES}", "preallocate_cache=true", *arguments.options)


def main() -> int:
    """Exit status 1 when anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("options", nargs="*", help="options of the server (NAME=VALUE)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each phase")
    parser.add_argument(
        "--clients", type=int, default=4 * PLACES, help="of the first phase; of the second, as many as are taken"
    )
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument(
        "--fake", action="store_true", help="shards without a model: 20 ms a step, and tasks are counted"
    )
    arguments = parser.parse_args()
    # imagined steps take as long whatever is in them: many clients, who are not in step, have more of them
    least = 0.0 if arguments.fake else LEAST_GOODPUT
    loop = uvloop.new_event_loop  # the clients share the server's cores
    with _server(arguments) as tried, asyncio.Runner(loop_factory=loop) as runner:
        found = runner.run(trial(tried, arguments.clients, 60 * arguments.minutes, arguments.new_tokens, least))
    for wrong in found:
        print("FAULT", wrong)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
