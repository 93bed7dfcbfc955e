"""Steps under load, and what passes around them, from a short real run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from tgi_server.bench.completion import Record
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.workload import Workload
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ModelError
from tgi_server.simulate.costs import Loaded, MeasuredCosts, Overheads

_FEW, _MANY = 1, 8
"""Clients of the two runs."""
_ROUNDS = 2
"""Requests of each client, and twice as many of a single one."""
_PROMPT, _NEW = 32, 32
"""Words in and tokens out of a request, where so many are allowed."""
_WORD = 6
"""Tokens that a word may have with the smallest vocabularies."""


@dataclass(frozen=True)
class Observed:
    """What a run comes to.

    Attributes:
        clients: at a time.
        first: seconds from request to first token, the median.
        between: seconds from one token to the next, the median.
    """

    clients: int
    first: float
    between: float

    @classmethod
    def of(cls, clients: int, records: Sequence[Record]) -> Observed:
        """Raises ModelError where there is nothing to be seen."""
        good = [record for record in records if record.error is None]
        gaps = [later - earlier for record in good for earlier, later in pairwise(record.arrivals)]
        if not gaps:
            reason = next((record.error for record in records if record.error), "no tokens came")
            raise ModelError(f"a short run that was to be measured failed: {reason}")
        return cls(clients, median(record.arrivals[0] - record.start for record in good), median(gaps))


Simulate = Callable[[Loaded, Overheads, Workload, int], Sequence[Record]]
"""The records of one of these works with so many clients, simulated."""


def works(options: BatchingOptions) -> list[tuple[int, Workload]]:
    """The runs: clients, and what they ask."""
    places = min(options.max_concurrent_requests, options.max_batch_size or _MANY)
    new = max(2, min(_NEW, options.max_total_tokens // 2))
    prompt = max(1, min(_PROMPT, min(options.max_input_length, options.max_total_tokens - new) // _WORD))
    runs = []
    for clients in sorted({_FEW, min(_MANY, places)}):
        asked = BenchOptions(
            clients=str(clients), requests=_ROUNDS * max(clients, 2), prompt_tokens=str(prompt), new_tokens=new
        )
        runs.append((clients, Workload.of(asked)))
    return runs


def fit(
    costs: MeasuredCosts, works: Sequence[tuple[int, Workload]], real: Sequence[Observed], simulate: Simulate
) -> tuple[Loaded, Overheads]:
    """What makes simulated runs like the real ones.

    Gaps between tokens tell what a step takes longer under load, and how much of that each token brings; what is left
    of the time to the first token is what passes before a request can be planned.
    """

    def simulated(costs: Loaded, overheads: Overheads) -> list[Observed]:
        return [Observed.of(clients, simulate(costs, overheads, work, clients)) for clients, work in works]

    alone = simulated(Loaded(costs), Overheads())
    more = [(each.clients, each.between - made.between) for each, made in zip(real, alone, strict=True)]
    step, token = line(more)
    loaded = Loaded(costs, step, token)
    before = real[0].first - simulated(loaded, Overheads())[0].first
    return loaded, replace(Overheads(), before=max(0.0, before))


def line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """The a and b >= 0 of the line y = a + b x through the first and last of some points, or nearest to both."""
    (few, low), (many, high) = points[0], points[-1]
    if few == many:
        return max(0.0, low), 0.0
    slope = (high - low) / (many - few)
    start = low - slope * few
    if slope < 0:
        return max(0.0, (low + high) / 2), 0.0
    if start < 0:
        return 0.0, max(0.0, (few * low + many * high) / (few * few + many * many))
    return start, slope
