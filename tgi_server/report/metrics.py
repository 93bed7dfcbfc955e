"""What the columns of a report mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tgi_server.bench.summary import Summary
from tgi_server.sweep.objective import Objective


@dataclass(frozen=True)
class Metric:
    """One number of a measurement.

    Attributes:
        name: a column's head, without the unit.
        unit: empty where the name says it.
        digits: after the point, in tables.
        meaning: its definition, for the report.
        of: its value in a measurement, in the unit.
    """

    name: str
    unit: str
    digits: int
    meaning: str
    of: Callable[[Summary], float]

    @property
    def title(self) -> str:
        """The name with the unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


_FIRST = "From when a request was due to its first event with text, so that waiting in the load generator counts."
_BETWEEN = "From one event with text to the next within a request; an event may bring several tokens."
_WHOLE = "From when a request was due to the end of its answer."

TOKENS = Metric(
    "tokens/s", "", 1,
    "Generated tokens that arrived within the measured time, divided by that time; prompts do not count.",
    lambda summary: summary.tokens_per_second,
)  # fmt: skip
REQUESTS = Metric(
    "requests/s", "", 2,
    "Answers that were complete within the measured time, divided by that time.",
    lambda summary: summary.requests_per_second,
)  # fmt: skip
FIRST_P50 = Metric("first token p50", "ms", 1, _FIRST, lambda summary: 1000 * summary.first_token.p50)
FIRST_P95 = Metric("first token p95", "ms", 1, _FIRST, lambda summary: 1000 * summary.first_token.p95)
BETWEEN_P50 = Metric("between tokens p50", "ms", 2, _BETWEEN, lambda summary: 1000 * summary.between_tokens.p50)
BETWEEN_P95 = Metric("between tokens p95", "ms", 2, _BETWEEN, lambda summary: 1000 * summary.between_tokens.p95)
WHOLE_P50 = Metric("whole answer p50", "ms", 0, _WHOLE, lambda summary: 1000 * summary.whole.p50)
WHOLE_P95 = Metric("whole answer p95", "ms", 0, _WHOLE, lambda summary: 1000 * summary.whole.p95)

METRICS = (TOKENS, REQUESTS, FIRST_P50, FIRST_P95, BETWEEN_P50, BETWEEN_P95, WHOLE_P50, WHOLE_P95)
"""The columns, in their order."""

PREDICTED = (TOKENS, FIRST_P95, BETWEEN_P95, WHOLE_P95)
"""What the simulator is compared by."""

OF_OBJECTIVE = {Objective.throughput: TOKENS, Objective.latency: WHOLE_P95, Objective.goodput: REQUESTS}
"""The number that an objective is about."""

DEFINITIONS = {
    TOKENS.name: TOKENS.meaning,
    REQUESTS.name: REQUESTS.meaning,
    "first token": _FIRST,
    "between tokens": _BETWEEN,
    "whole answer": _WHOLE,
    "p50, p95": "What 50, or 95, of 100 such times do not exceed, over all requests of a measurement that did not "
    "fail. In the table it is the mean of the repeats' values.",
    "±": "Half of the 95 % confidence interval of a mean over the repeats (Student's t). With one repeat nothing is "
    "known of the noise, and it is left out.",
    "Pareto front": "The points of which no other has both more tokens a second and a shorter time.",
    "effect": "The mean over all points with this value, the other settings being what they are; only combinations of "
    "the others that were measured with every value count, where there are any.",
}  # fmt: skip
"""By name, in the order in which a report tells them."""
