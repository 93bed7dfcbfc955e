"""Writes the shipped traffics. See scripts/make-traffic."""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tgi_server.bench.traffic import SHIPPED
from tgi_server.traffic import Asked, Traffic, write

LINES = 200
MOST = 1000
"""Tokens of a prompt: a little less than the default max_input_length, since other tokenizers add some."""


@dataclass(eq=False)
class Made:
    """A request whose `like` is another one, not yet a line."""

    at: float
    prompt: int
    new: int
    like: Made | None = None
    shared: int = 0


def length(chance: random.Random, median: int, sigma: float, least: int, most: int) -> int:
    """A log-normal number of tokens within bounds."""
    return min(most, max(least, round(chance.lognormvariate(math.log(median), sigma))))


def starts(chance: random.Random, gap: float) -> Iterator[float]:
    """Poisson arrivals, `gap` seconds apart on average."""
    moment = 0.0
    while True:
        yield moment
        moment += chance.expovariate(1 / gap)


def chat(chance: random.Random) -> Iterator[list[Made]]:
    """Conversations of 1 to 8 turns behind one system prompt of 48 tokens; people read and write between turns."""
    return talks(chance, system=48, gap=5.0, turns=(1, 8), said=(40, 0.8, 6, 300), new=(120, 0.6, 16, 400), pause=8.0)


def agent(chance: random.Random) -> Iterator[list[Made]]:
    """Tasks of 3 to 12 steps behind one system prompt with tools of 480 tokens; results of tools come quickly."""
    return talks(chance, system=480, gap=8.0, turns=(3, 12), said=(30, 0.7, 8, 160), new=(32, 0.5, 12, 96), pause=0.8)


def talks(
    chance: random.Random,
    system: int,
    gap: float,
    turns: tuple[int, int],
    said: tuple[int, float, int, int],
    new: tuple[int, float, int, int],
    pause: float,
) -> Iterator[list[Made]]:
    """Texts that grow by an answer and what is said to it; the first `system` tokens are the same for all."""
    first: Made | None = None
    for at in starts(chance, gap):
        asked = Made(at, system + length(chance, *said), length(chance, *new), first, system if first else 0)
        first = first or asked
        talk = [asked]
        for _ in range(chance.randint(*turns) - 1):
            before = talk[-1]
            prompt = before.prompt + before.new + length(chance, *said)
            if prompt > MOST:
                break
            # an answer takes some 30 ms a token
            moment = before.at + 0.03 * before.new + chance.lognormvariate(math.log(pause), 0.6)
            talk.append(Made(moment, prompt, length(chance, *new), before, before.prompt))
        yield talk


def summarise(chance: random.Random) -> Iterator[list[Made]]:
    """Long texts behind one instruction of 32 tokens."""
    first: Made | None = None
    for at in starts(chance, 2.0):
        prompt, new = length(chance, 650, 0.35, 200, MOST), length(chance, 64, 0.4, 16, 160)
        asked = Made(at, prompt, new, first, 32 if first else 0)
        first = first or asked
        yield [asked]


def code_complete(chance: random.Random) -> Iterator[list[Made]]:
    """Bursts of 2 to 6 while somebody types: most of the file stays the same from one to the next."""
    for at in starts(chance, 4.0):
        burst = [Made(at, length(chance, 350, 0.6, 60, MOST), length(chance, 12, 0.6, 2, 48))]
        for _ in range(chance.randint(1, 5)):
            before = burst[-1]
            shared = round(before.prompt * chance.uniform(0.8, 1.0))
            prompt = min(MOST, before.prompt + chance.randint(1, 12))
            moment = before.at + chance.uniform(0.2, 1.2)
            burst.append(Made(moment, prompt, length(chance, 12, 0.6, 2, 48), before, shared))
        yield burst


KINDS = {"chat": chat, "summarise": summarise, "code-complete": code_complete, "agent": agent}


def traffic(made: list[Made], about: str) -> Traffic:
    """Lines in the order of arrival, cut to `LINES`."""
    lines = sorted(made, key=lambda asked: asked.at)[:LINES]
    numbers = {id(asked): line for line, asked in enumerate(lines)}
    requests = [
        Asked(round(asked.at, 3), asked.prompt, asked.new, asked.like and numbers[id(asked.like)], asked.shared)
        for asked in lines
    ]
    return Traffic(tuple(requests), f"made up: {about}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make-traffic", description=__doc__)
    parser.add_argument("--seed", type=int, default=15)
    parser.add_argument("--directory", type=Path, default=SHIPPED)
    given = parser.parse_args()
    given.directory.mkdir(exist_ok=True)
    for name, kind in KINDS.items():
        talks = islice(kind(random.Random(f"{given.seed} {name}")), LINES)
        about = " ".join((kind.__doc__ or "").split())
        write(given.directory / f"{name}.jsonl", traffic([asked for talk in talks for asked in talk], about))
    mixed = [
        asked
        for name, kind in KINDS.items()
        for talk in islice(kind(random.Random(f"{given.seed} mixed {name}")), LINES)
        for asked in talk
    ]
    write(given.directory / "mixed.jsonl", traffic(mixed, "All four at the same time."))


if __name__ == "__main__":
    main()
