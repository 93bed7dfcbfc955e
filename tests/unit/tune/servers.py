"""Servers made up for searches: how they answer is known exactly."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from tgi_server.bench.completion import Record
from tgi_server.bench.summary import Percentiles, Summary
from tgi_server.jobs.base import Task
from tgi_server.sweep.objective import Limits
from tgi_server.tune.guard import verdict
from tgi_server.tune.scoring import Load, Probe
from tgi_server.tune.space import Candidate


def candidate(**settings: object) -> Candidate:
    return Candidate({name: str(value) for name, value in settings.items()}, cast(Task, None))


def summary(tokens: float = 0.0, whole: float = 1.0, rate: float = 1.0, **other: Any) -> Summary:
    same = Percentiles(whole, whole, whole)
    values: dict[str, Any] = {
        "clients": 1, "seconds": 10.0, "requests": 100, "failed": 0, "first_error": None, "prompt_tokens": 10.0,
        "new_tokens": 10.0, "events": 10.0, "tokens_per_second": tokens, "requests_per_second": rate,
        "first_token": same, "between_tokens": same, "each_token": same, "whole": same,
    }  # fmt: skip
    return Summary(**{**values, **other})


def queue(rate: float, service: float, requests: int, seed: int, servers: int = 1) -> list[Record]:
    """What happens to Poisson arrivals that wait for one of `servers`, each busy for `service` seconds on average."""
    chance = random.Random(seed)
    free = [0.0] * servers
    moment, records = 0.0, []
    for _ in range(requests):
        moment += chance.expovariate(rate)
        begin = max(moment, free.pop(free.index(min(free))))
        end = begin + chance.uniform(0.8, 1.2) * service
        free.append(end)
        records.append(Record(moment, moment, [begin + 0.1 * service, end], end, 2))
    return records


@dataclass
class Servers:
    """Evaluates candidates by what their goodput or tokens a second truly are.

    Attributes:
        truth: of a candidate; an exception where it cannot be had.
        noise: standard deviation of each probe, as a part.
        probes: names and loads of all that was asked.
    """

    truth: Callable[[Candidate, Load], float]
    noise: float = 0.0
    goodput: bool = False
    seed: int = 0
    probes: list[tuple[str, Load, int]] = field(default_factory=list)

    def __call__(self, candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
        self.probes.append((candidate.name, load, repeat))
        chance = random.Random(f"{self.seed} {candidate.name} {load} {repeat}")
        try:
            value = self.truth(candidate, load) * chance.gauss(1.0, self.noise)
        except ValueError as error:
            return Probe(None, error=str(error))
        if not self.goodput:
            return Probe(summary(tokens=value))
        return Probe(summary(rate=load.rate or 0.0), None if (load.rate or 0.0) <= value else "limits broken")


@dataclass
class Queue:
    """A server whose answers wait for one of its places; measured as `Guard` and `verdict` judge it."""

    service: float
    limits: Limits
    requests: int = 400
    servers: int = 1
    probes: list[Load] = field(default_factory=list)

    def __call__(self, candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
        assert load.rate is not None
        self.probes.append(load)
        records = queue(load.rate, self.service, self.requests, repeat, self.servers)
        return Probe(summary(rate=load.rate), verdict(records, self.limits, open_loop=True))
