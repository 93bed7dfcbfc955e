"""Sweeps made up for the tests of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from random import Random

from tgi_server.bench.summary import Percentiles, Summary
from tgi_server.sweep.record import Described, Sweep, Trial

FACTS = {
    "Version": "1.0",
    "Command": "python -m tgi_server -m job=bench model=smollm2 max_waiting_tokens=5,20,60 quantize=none,eetq",
    "Model": "smollm2",
    "Traffic": 'lengths=[64,256], new_tokens=64, duration=8.0, kind="random"',
    "Processor": "AMD EPYC",
    "Cores": "2",
    "Memory": "24 GiB",
    "Time": "2026-11-27T18:00:00+00:00",
}


def summary(tokens: float, first: float = 0.2, between: float = 0.01, whole: float = 1.0, failed: int = 0) -> Summary:
    """Seconds are those of p50; p95 is half as much again."""
    times = [Percentiles(value, 1.5 * value, 2 * value) for value in (first, between, between, whole)]
    error = "HTTP 429" if failed else None
    return Summary(8, 10.0, 60, failed, error, 80.0, 64.0, 64.0, tokens, tokens / 64, *times)


def sweep(points: Sequence[Mapping[str, str]], measured: Mapping[int, Sequence[Summary]]) -> Sweep:
    """Points with these settings, which are their options too, and a trial a summary; others failed."""
    described = [Described(number, settings, dict(settings), 8) for number, settings in enumerate(points, 1)]
    trials = [
        Trial(number, repeat, "2026-11-27T18:00:00+00:00", 12.0, one)
        for number, summaries in measured.items()
        for repeat, one in enumerate(summaries, 1)
    ]
    trials += [failure(point.number) for point in described if not measured.get(point.number)]
    return Sweep(FACTS, described, trials)


def failure(point: int, repeat: int = 1, error: str = "shard 0 ended with status 1") -> Trial:
    lines = ["ERROR shard 0: out of memory", "RuntimeError: could not allocate 5 GiB"]
    return Trial(point, repeat, "2026-11-27T18:00:00+00:00", 3.0, None, error, lines)


def plausible() -> Sweep:
    """12 points with 3 repeats, one of which failed, and predictions."""
    chance = Random(7)
    grid = list(product(("5", "20", "60"), ("1024", "4096"), ("none", "eetq")))
    points, measured, predictions = list[Described](), dict[int, list[Summary]](), dict[int, Summary]()
    for number, (waiting, prefill, quantize) in enumerate(grid, 1):
        settings = {"max_waiting_tokens": waiting, "max_batch_prefill_tokens": prefill, "quantize": quantize}
        defaults = {"max_waiting_tokens": "20", "max_batch_prefill_tokens": "4096", "quantize": "none"}
        own = {name: value for name, value in settings.items() if value != defaults[name]}
        points.append(Described(number, settings, {"model": "smollm2", "port": "3911", **own}, 8))
        tokens = 500 * (1.18 if quantize == "eetq" else 1) * (1 + 0.06 * {"5": -1, "20": 0, "60": 1}[waiting])
        tokens *= 1.04 if prefill == "4096" else 1
        first = {"5": 0.12, "20": 0.2, "60": 0.42}[waiting] * (1.1 if prefill == "4096" else 1)
        measured[number] = [
            summary(tokens * chance.gauss(1, 0.015), first * chance.gauss(1, 0.05), 8 / tokens, 8 * 64 / tokens)
            for _ in range(3)
        ]
        predictions[number] = summary(tokens * chance.gauss(1.03, 0.04), first * 1.08, 7.6 / tokens, 8 * 62 / tokens)
    made = sweep([], {})
    trials = [
        Trial(number, repeat, "2026-11-27T18:00:00+00:00", 12.0, one)
        for number, summaries in measured.items()
        for repeat, one in enumerate(summaries, 1)
        if number != 10
    ]
    return replace(made, points=points, trials=[*trials, failure(10)], predictions=predictions)
