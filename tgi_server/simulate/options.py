"""The options of the simulation: the fields of its job. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Optional

from tgi_server.bench.options import BenchOptions
from tgi_server.config.base import option
from tgi_server.replicas.options import PREFIX_MARGIN


class Routing(Enum):
    """Which of several replicas gets a request."""

    prefix = "prefix"
    """The one that was given most of its prompt's beginning, unless it is too busy."""
    least_loaded = "least_loaded"
    """The one with the fewest requests under way."""
    round_robin = "round_robin"
    """One after the other."""


@dataclass
class SimulateOptions(BenchOptions):
    """What the simulated load generator asks of the configured server."""

    costs: Optional[str] = option(
        None,
        "JSON file of what steps cost on this machine with this model. Where it is not there yet it is measured and "
        "written; where it is, nothing is started. Unset: measured, and not kept.",
    )
    cost_seconds: float = option(
        45.0,
        "Seconds of measuring what steps cost, on a server started for it; not used where costs has it.",
        minimum=1,
    )
    replicas: int = option(
        1, "Servers of the same configuration behind one address, among which requests are shared out.", minimum=1
    )
    per_replica: bool = option(
        False, "clients, request_rate, traffic_speed and requests are those of each replica, not of all together."
    )
    routing: Routing = option(
        Routing.prefix,
        "Which replica gets a request: prefix, one that was given much of its prompt's beginning before, unless it is "
        "too busy (prefix_margin); least_loaded, the one with the fewest requests under way; round_robin, one after "
        "the other.",
    )
    prefix_margin: Optional[int] = option(None, PREFIX_MARGIN, minimum=0)
    front_routers: Optional[int] = option(
        None,
        "Processes that share out the requests, in turns; each knows the beginnings of those only that it sent itself. "
        "Unset: 1.",
        minimum=1,
    )

    @property
    def costs_path(self) -> Path | None:
        """Where `costs` points to."""
        return None if self.costs is None else Path(self.costs).expanduser()

    @property
    def known(self) -> bool:
        """Whether nothing has to be measured."""
        return self.costs_path is not None and self.costs_path.exists()
