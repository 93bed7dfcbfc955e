"""The options of the simulation: the fields of its job. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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
        45.0,
        "Seconds of measuring what steps cost, on a server started for it; not used where costs has it.",
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
