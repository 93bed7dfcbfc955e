"""Numbers out of records. Times are in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tgi_server.bench.completion import Record


@dataclass(frozen=True)
class Percentiles:
    """What half, 95 and 99 of 100 values do not exceed; NaN where there are no values."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """Those of some values, in any order."""
        ordered = sorted(values)
        return cls(*(_quantile(ordered, part) for part in (0.50, 0.95, 0.99)))


@dataclass(frozen=True)
class Summary:
    """One measurement in numbers.

    Attributes:
        clients: requests at a time.
        seconds: length of the window that the rates are about: the given duration, or until the last answer.
        requests, failed: those sent, and those of them that failed; the latencies leave these out.
        first_error: of a failed request.
        prompt_tokens, new_tokens: means of a request; the first is None where the server does not tell.
        events: mean of the events with text of a request; less than `new_tokens` where one brings several tokens.
        tokens_per_second, requests_per_second: what arrived, or was complete, within the window.
        first_token: from when a request was due to its first event.
        between_tokens: from one event to the next within a request.
        each_token: mean time a token of a request after its first event.
        whole: from when a request was due to its end.
    """

    clients: int
    seconds: float
    requests: int
    failed: int
    first_error: str | None
    prompt_tokens: float | None
    new_tokens: float
    events: float
    tokens_per_second: float
    requests_per_second: float
    first_token: Percentiles
    between_tokens: Percentiles
    each_token: Percentiles
    whole: Percentiles


def summarise(clients: int, records: Sequence[Record], duration: float | None) -> Summary:
    """The numbers of one measurement.

    Args:
        duration: seconds in which requests were sent; what came later is not counted in the rates, as the load was
            no longer the same.
    """
    good = [record for record in records if record.error is None]
    errors = [record.error for record in records if record.error is not None]
    seconds = min(duration or math.inf, max((record.end for record in records), default=0.0))
    tokens = sum(_tokens_until(record, seconds) for record in records)
    told = [record.prompt_tokens for record in good if record.prompt_tokens is not None]
    gaps = [later - earlier for record in good for earlier, later in pairwise(record.arrivals)]
    return Summary(
        clients=clients,
        seconds=seconds,
        requests=len(records),
        failed=len(errors),
        first_error=errors[0] if errors else None,
        prompt_tokens=_mean(told) if told else None,
        new_tokens=_mean([record.tokens for record in good]),
        events=_mean([len(record.arrivals) for record in good]),
        tokens_per_second=_rate(tokens, seconds),
        requests_per_second=_rate(sum(record.end <= seconds for record in good), seconds),
        first_token=Percentiles.of([record.arrivals[0] - record.start for record in good]),
        between_tokens=Percentiles.of(gaps),
        each_token=Percentiles.of([_each_token(record) for record in good if record.tokens > 1]),
        whole=Percentiles.of([record.end - record.start for record in good]),
    )


def _tokens_until(record: Record, moment: float) -> float:
    """Tokens that had arrived by then, each event standing for the same number of them."""
    if not record.arrivals:
        return 0.0
    return record.tokens * sum(arrival <= moment for arrival in record.arrivals) / len(record.arrivals)


def _each_token(record: Record) -> float:
    return (record.arrivals[-1] - record.arrivals[0]) / (record.tokens - 1)


def _quantile(ordered: Sequence[float], part: float) -> float:
    """Linear between the two nearest values."""
    if not ordered:
        return math.nan
    position = part * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
