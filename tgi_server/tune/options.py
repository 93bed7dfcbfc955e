"""The options of the search: the fields of its job. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from tgi_server.bench.options import BenchOptions
from tgi_server.config.base import option
from tgi_server.sweep.objective import Limits, Objective


@dataclass
class TuneOptions(BenchOptions):
    """What the search for the best configuration looks for, under which load."""

    objective: Objective = option(
        Objective.throughput,
        "What to look for: throughput, the most generated tokens a second; latency, the shortest whole answers of the "
        "slowest 5 in 100; goodput, the most requests a second of which 95 in 100 keep each limit (slo.*).",
    )
    slo_ttft_p95_ms: Optional[float] = option(
        None,
        "Limit in milliseconds from when a request is due to its first token, which 95 in 100 requests keep; can be "
        "written slo.ttft_p95_ms, as can the other limits.",
        minimum=0.1,
    )
    slo_itl_p95_ms: Optional[float] = option(
        None, "Limit in milliseconds from one token to the next, which 95 in 100 gaps keep.", minimum=0.1
    )
    slo_whole_p95_ms: Optional[float] = option(
        None, "Limit in milliseconds from when a request is due to the end of its answer.", minimum=0.1
    )
    budget: float = option(
        900.0, "Seconds of measurements, starts of servers included; one that has begun is completed.", minimum=10
    )
    candidates: int = option(
        3, "Configurations to measure beside the documented defaults; the others are only simulated.", minimum=1
    )
    record: Optional[str] = option(
        None,
        "Directory of the record, logs, report and best.yaml; the same command goes on where it was stopped. Unset: "
        "sweeps/NAME, where NAME is made of the model and a hash of all that makes the search this one.",
    )


def limits(options: TuneOptions) -> Limits:
    """The limits in seconds."""
    return Limits(*map(_seconds, (options.slo_ttft_p95_ms, options.slo_itl_p95_ms, options.slo_whole_p95_ms)))


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
