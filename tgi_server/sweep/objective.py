"""What makes one measurement better than another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # options name an objective, and --help reads options
    from tgi_server.bench.summary import Summary


class Objective(Enum):
    """What to look for."""

    throughput = "throughput"
    """Most generated tokens a second."""
    latency = "latency"
    """Shortest whole answers, of the slowest 5 in 100."""
    goodput = "goodput"
    """Most requests a second of which 95 in 100 keep the limits."""


@dataclass(frozen=True)
class Limits:
    """Latencies in seconds that 95 of 100 may not exceed; None where there is no limit.

    Attributes:
        ttft_p95: from when a request was due to its first token.
        itl_p95: from one event with text to the next.
        whole_p95: from when a request was due to the end of its answer.
    """

    ttft_p95: float | None = None
    itl_p95: float | None = None
    whole_p95: float | None = None

    def kept(self, summary: Summary) -> bool:
        """Whether a measurement keeps all of them and nothing failed. NaN, as of gaps where there are none, is kept."""
        pairs = (
            (self.ttft_p95, summary.first_token.p95),
            (self.itl_p95, summary.between_tokens.p95),
            (self.whole_p95, summary.whole.p95),
        )
        return not summary.failed and not any(limit is not None and value > limit for limit, value in pairs)


def score(objective: Objective, summary: Summary) -> float:
    """Of one measurement; more is better. A goodput is that of the load at hand: the limits are for `Limits.kept`."""
    match objective:
        case Objective.throughput:
            return summary.tokens_per_second
        case Objective.latency:
            return -summary.whole.p95
        case Objective.goodput:
            return summary.requests_per_second
