"""The options of the simulation: the fields of its job. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from tgi_server.bench.options import BenchOptions
from tgi_server.config.schema import option


@dataclass
class SimulateOptions(BenchOptions):
    """What the simulated load generator asks of the configured server."""

    costs: Optional[str] = option(
        None,
        "JSON file of what steps cost on this machine with this model. Where it is not there yet it is measured and "
        "written; where it is, nothing is started. Unset: measured, and not kept.",
    )
    cost_seconds: float = option(
        45.0, "Seconds in which it is measured what steps cost, on a server that is started for it.", minimum=1
    )
