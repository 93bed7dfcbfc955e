"""What one process in front of many replicas carries: tokens that pass through, and choices of a replica."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from scripts.scaling.points import Point
from tgi_server.replicas.affinity import Affinity
from tgi_server.simulate.costs import MeasuredCosts

CARRIES = 31_000.0
"""Tokens a second of one router process (docs/benchmarks.md, ./scripts/bench-router)."""
_MOST = 60
_SECONDS = (10.0, 20.0)


def delays(costs: MeasuredCosts) -> list[dict[str, float]]:
    """How long tokens wait in one process that carries so many a second, for those of more and more replicas.

    The tokens are those of simulated replicas: a step brings one for each of its sequences, at the same moment.
    """
    records = Point(_MOST, "least_loaded", 8.0, 1, warm=0.0, seconds=_SECONDS[1]).records(costs)
    found = []
    for count in (8, 16, 24, 32, 40, 48, 52, 56, 58, 60):
        arrivals = [moment for record in records if record.replica < count for moment in record.arrivals]
        moments = sorted(moment for moment in arrivals if _SECONDS[0] < moment < _SECONDS[1])
        waited = sorted(waits(moments, CARRIES))
        p50, p95, p99 = (waited[int(part * len(waited))] for part in (0.5, 0.95, 0.99))
        rate = len(moments) / (_SECONDS[1] - _SECONDS[0])
        found.append({"replicas": count, "tokens": rate, "p50": p50, "p95": p95, "p99": p99})
    return found


def waits(moments: Sequence[float], rate: float) -> list[float]:
    """Seconds until each token has passed a process that takes them one after the other, so many a second.

    Args:
        moments: at which they come, rising.
    """
    free, found = 0.0, []
    for moment in moments:
        free = max(free, moment) + 1 / rate
        found.append(free - moment)
    return found


def choices() -> list[dict[str, float]]:
    """How long it takes to choose one of many replicas by the prompt's beginning, on this machine."""
    found = []
    for replicas in (1, 10, 100, 1000):
        chance, affinity = random.Random(1), Affinity[int]()
        loads = {number: chance.randrange(12) for number in range(replicas)}
        prompts = [[hash((number, block)) for block in range(36)] for number in range(10 * replicas)]
        asked = [[*chance.choice(prompts)[:32], *chance.choice(prompts)[32:]] for _ in range(3000)]
        for keys in asked:
            affinity.add(affinity.choose(keys, loads), keys)
        began = time.perf_counter()
        for keys in asked:
            affinity.add(affinity.choose(keys, loads), keys)
        found.append({"replicas": replicas, "seconds": (time.perf_counter() - began) / len(asked)})
    return found
