"""Which replica gets a simulated request: by turns, or by the rule of the replicas that are run (`job=ray`)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tgi_server.batching.prefix import block_keys
from tgi_server.errors import UsageError
from tgi_server.replicas.affinity import MARGIN, Affinity
from tgi_server.simulate.options import Routing, SimulateOptions


@dataclass(frozen=True)
class Fleet:
    """Servers of one configuration behind one address.

    Attributes:
        replicas: how many.
        margin: see `replicas.affinity.Affinity`.
        routers: processes that take requests in turns, each of which knows only what it sent where itself.
    """

    replicas: int = 1
    routing: Routing = Routing.prefix
    margin: float = MARGIN
    routers: int = 1

    @classmethod
    def of(cls, options: SimulateOptions) -> Fleet:
        """The one that the options describe. Raises UsageError for one that has no effect."""
        for name in ("prefix_margin", "front_routers"):
            if getattr(options, name) is not None and options.routing is not Routing.prefix:
                raise UsageError(f"{name}: has no effect with routing={options.routing.name}; leave it out", [name])
        margin = MARGIN if options.prefix_margin is None else options.prefix_margin
        return cls(options.replicas, options.routing, margin, options.front_routers or 1)


class Router:
    """Chooses replicas; their loads are known to all processes."""

    def __init__(self, fleet: Fleet) -> None:
        self._loads = dict.fromkeys(range(fleet.replicas), 0)
        self._turns = itertools.cycle(range(fleet.replicas))
        self._routing = fleet.routing
        self._processes = itertools.cycle([Affinity[int](fleet.margin) for _ in range(fleet.routers)])

    def send(self, ids: Sequence[int]) -> int:
        """The replica that gets a prompt of these tokens."""
        chosen = self._choose(ids) if len(self._loads) > 1 else 0
        self._loads[chosen] += 1
        return chosen

    def answered(self, replica: int) -> None:
        """One of its requests is done, or failed."""
        self._loads[replica] -= 1

    def _choose(self, ids: Sequence[int]) -> int:
        if self._routing is Routing.round_robin:
            return next(self._turns)
        process = next(self._processes)
        keys = block_keys(ids) if self._routing is Routing.prefix else []
        chosen = process.choose(keys, self._loads)
        process.add(chosen, keys)
        return chosen
