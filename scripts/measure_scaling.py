"""Simulated replicas, many of them: numbers for docs/plots/scaling.json, and pictures. See scripts/measure-scaling."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import orjson

from scripts.scaling import draw, front
from scripts.scaling.costs import PAGE, costs
from scripts.scaling.points import Point, same
from tgi_server.simulate.costs import MeasuredCosts

FILE = PAGE.parent / "plots/scaling.json"
RATE = 8.0
"""Requests a second and replica, which one replica bears where it finds nearly all system prompts."""
PROMPTS = 10
"""System prompts for each replica."""

_REPLICAS = {
    1: (15.0, 25.0), 3: (15.0, 25.0), 10: (15.0, 25.0), 30: (15.0, 20.0), 100: (12.0, 10.0), 300: (10.0, 8.0),
    1000: (5.0, 5.0),
}  # fmt: skip
"""Seconds before those that count, and of those: a request takes milliseconds to simulate."""
_RATES: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "prefix": {1000: (8,)}, "least_loaded": {10: (8,)}, "round_robin": {100: (4, 5, 8), 1000: (4,)},
}  # fmt: skip
"""Requests a second and replica, for so many replicas at most."""


def replicas() -> Iterator[Point]:
    """More and more replicas, and as many more requests and prompts; under loads around what they bear."""
    for count, (warm, seconds) in _REPLICAS.items():
        for routing, known in _RATES.items():
            for rate in next((rates for most, rates in known.items() if count <= most), ()):
                yield Point(count, routing, float(rate), PROMPTS * count, warm=warm, seconds=seconds)


def load() -> Iterator[Point]:
    """More and more requests."""
    for rate in (2.0, 4.0, 5.0, 6.0, 6.5, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0):
        for routing in ("prefix", "least_loaded", "round_robin") if rate <= 11 else ("prefix",):
            yield Point(16, routing, rate, 16 * PROMPTS)


def margin() -> Iterator[Point]:
    """How far a replica may be ahead of the least busy one: with many prompts, and with one that all share; of few."""
    for prompts, rate in ((16 * PROMPTS, RATE), (1, 4.0)):
        base = Point(16, "prefix", rate, prompts)
        yield from (same(base, margin=margin) for margin in (0, 1, 2, 4, 8, 16, 32))
        yield same(base, routing="least_loaded")
    few = Point(2, "prefix", 2.0, 1)
    yield from (same(few, margin=margin) for margin in (0, 1, 2, 4, 8))
    yield same(few, routing="least_loaded")


def routers() -> Iterator[Point]:
    """More and more processes that do not tell each other what they sent where."""
    for count in (1, 2, 4, 8, 16, 32):
        yield Point(32, "prefix", RATE, 32 * PROMPTS, routers=count)
    yield Point(32, "least_loaded", RATE, 32 * PROMPTS)


PARTS: Mapping[str, Callable[[], Iterator[Point]]] = {
    "replicas": replicas, "load": load, "margin": margin, "routers": routers,
}  # fmt: skip
OTHERS: Mapping[str, Callable[[MeasuredCosts], Any]] = {"front": front.delays, "choice": lambda _: front.choices()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="measure-scaling", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*PARTS, *OTHERS], help="parts to simulate [all]")
    parser.add_argument("--draw", action="store_true", help="simulate nothing")
    arguments = parser.parse_args()
    if not arguments.draw:
        known = costs(PAGE.read_text(encoding="utf-8"))
        for name in arguments.only or [*PARTS, *OTHERS]:
            found = list(_told(PARTS[name](), known)) if name in PARTS else OTHERS[name](known)
            _keep(name, found, known)
    for path, text in draw.pictures(orjson.loads(FILE.read_bytes())).items():
        (FILE.parent / path).write_text(text, encoding="utf-8")


def _told(points: Iterator[Point], known: MeasuredCosts) -> Iterator[dict[str, Any]]:
    for point in points:
        found = point.run(known)
        print(found, file=sys.stderr, flush=True)
        yield found


def _keep(name: str, found: Any, known: MeasuredCosts) -> None:
    content = orjson.loads(FILE.read_bytes()) if FILE.exists() else {}
    content |= {"costs": asdict(known), name: found}
    FILE.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
