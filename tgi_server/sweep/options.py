"""The options of sweeps over measurements: further fields of the load generator's job. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from tgi_server.bench.options import BenchOptions
from tgi_server.config.base import option
from tgi_server.errors import UsageError
from tgi_server.sweep.objective import Objective


@dataclass
class SweepOptions(BenchOptions):
    """What the load generator asks of several configurations, and what is kept of that."""

    repeats: int = option(
        1,
        "Measure each point of a sweep so often, all points once before any is measured again; two or more give "
        "confidence intervals.",
        minimum=1,
        maximum=1000,
    )
    record: Optional[str] = option(
        None,
        "Directory of a sweep's record, logs and report; the same command goes on where it was stopped. Unset: "
        "sweeps/NAME, where NAME is made of the model and a hash of points, traffic and machine, so that the same "
        "command finds it again.",
    )
    objective: Objective = option(
        Objective.throughput,
        "What makes a point the best one in the report, and what sweepers of Hydra's look for: throughput, the most "
        "generated tokens a second; latency, the shortest whole answers of the slowest 5 in 100; goodput is for "
        "job=tune, which has limits.",
    )
    simulate: bool = option(
        True,
        "Tell for each point of a sweep what the simulator expects, and how far that is from what was measured; takes "
        "about a minute for each set of shards. Servers that run already (target) cannot be simulated.",
    )

    def refuse_of_sweeps(self) -> None:
        """Raise UsageError for what has no effect on a single measurement."""
        for name in ("objective", "simulate"):
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default:
                shown = value.name if isinstance(value, Objective) else str(value).lower()
                raise UsageError(f"{name}={shown}: is for sweeps; give --multirun, repeats or record")
