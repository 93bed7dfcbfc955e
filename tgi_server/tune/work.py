"""The work of one probe: the traffic that was asked for, under one load."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tgi_server.bench.completion import Record
from tgi_server.bench.workload import Workload
from tgi_server.sweep.objective import Objective
from tgi_server.tune.guard import Guard
from tgi_server.tune.options import TuneOptions, limits
from tgi_server.tune.scoring import Load

REQUESTS = 100
"""Of an open loop where nothing is said: the fewest of which 95 in 100 means something."""
_SECONDS = 20.0
"""Of a closed loop where nothing is said."""
_WARMUP = 4
"""Requests before each probe where nothing is said: there are many probes."""
_TOO_SLOW = 0.8
"""Part of the score to beat; what is below after some time is given up."""
_SETTLED = 0.4
"""Part of a measurement after which it is given up for its score."""


def work(options: TuneOptions, load: Load, repeat: int) -> Workload:
    """What is asked of a server; equal loads and repeats have the same arrivals and prompts."""
    clients = str(load.clients)
    whole = Workload.of(replace(options, clients=clients, request_rate=load.rate, traffic_speed=load.speed))
    requests, duration = whole.requests, whole.duration
    if options.requests is None and options.duration is None:
        requests, duration = (None, _SECONDS) if load.closed else (REQUESTS, None)
    return replace(
        whole,
        requests=requests,
        duration=duration,
        warmup=_WARMUP if whole.warmup is None else whole.warmup,
        seed=whole.seed + repeat - 1,
    )


def run_number(load: Load, repeat: int) -> int:
    """See `bench.load.measure`: different for all probes of a candidate, whose prompts are then in no cache."""
    return zlib.crc32(f"{load.clients} {load.rate} {load.speed} {repeat}".encode())


def guard(options: TuneOptions, work: Workload, beat: float | None) -> Guard:
    """What ends a probe that is lost; `beat` is the score that it has to reach to be of interest."""
    kept, expected = limits(options), work.requests
    if expected is None and work.rate is not None and work.duration is not None:
        expected = round(work.rate * work.duration)
    if beat is None or options.objective is Objective.goodput:
        return Guard(kept, expected)
    if options.objective is Objective.latency:
        slowest = -beat / _TOO_SLOW
        return Guard(replace(kept, whole_p95=min(slowest, kept.whole_p95 or slowest)), expected)
    return Guard(kept, expected, partial(_too_slow, _TOO_SLOW * beat, work.clients[0]))


def _too_slow(least: float, clients: int, part: float, records: Sequence[Record]) -> str | None:
    """Whether fewer than `least` tokens a second come, those under way counted as if they were there."""
    if part < _SETTLED:
        return None
    tokens = sum(record.tokens for record in records)
    most = tokens * (1 + clients / len(records)) / max(record.end for record in records)
    return f"{most:.0f} tokens/s at most, {least:.0f} would be too few" if most < least else None
