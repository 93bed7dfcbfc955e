"""Several replicas: the load that grows with them, and how requests were shared out among them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tgi_server.bench import report
from tgi_server.bench.workload import Workload
from tgi_server.simulate.options import SimulateOptions
from tgi_server.simulate.shards import Simulated


def work(options: SimulateOptions) -> Workload:
    """The work for all replicas together. Raises UsageError."""
    own = Workload.of(options)
    if not options.per_replica:
        return own
    times = options.replicas
    return replace(
        own,
        clients=tuple(clients * times for clients in own.clients),
        rate=own.rate and own.rate * times,
        speed=own.speed and own.speed * times,
        requests=own.requests and own.requests * times,
    )


@dataclass(frozen=True)
class Shared:
    """How the requests of one run were shared out.

    Attributes:
        cached: the part of all prompt tokens that was found in caches, of requests that were answered; NaN of none.
        fewest, most: requests that a replica got.
    """

    cached: float
    fewest: int
    most: int

    @classmethod
    def of(cls, records: Sequence[Simulated], replicas: int) -> Shared:
        """That of some records."""
        good = [record for record in records if record.error is None]
        tokens = sum(record.prompt_tokens or 0 for record in good)
        counts = Counter(record.replica for record in records)
        each = [counts[number] for number in range(replicas)]
        cached = sum(record.cached_tokens for record in good) / tokens if tokens else math.nan
        return cls(cached, min(each), max(each))


def table(runs: Sequence[Shared]) -> list[str]:
    """The lines of a table, with its head."""
    head = ["cached %", "requests a replica"]
    rows = [[report.number(100 * run.cached), f"{run.fewest} to {run.most}"] for run in runs]
    return report.aligned([head, *rows]).split("\n")
