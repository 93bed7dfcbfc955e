"""Counters, gauges and histograms, written in the Prometheus text format.

Own code because the names of this server have no `_total` suffix, which the usual client library would add. Not
thread-safe: everything is recorded on one event loop. A series appears only after its first update.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]

_DURATION_BUCKETS = [0.0001 * 1.5**k for k in range(1, 36)]
_BATCH_SIZE_BUCKETS = [float(size) for size in range(1, 1025)]


class _Histogram:
    """Observations counted by the first bucket bound that is not below them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: Labels) -> list[str]:
        bounds = [*(_number(bound) for bound in self.bounds), "+Inf"]
        cumulative = list(accumulate(self.counts))
        buckets = [
            f"{name}_bucket{_braces((*labels, ('le', bound)))} {count}"
            for bound, count in zip(bounds, cumulative, strict=True)
        ]
        suffix = _braces(labels)
        return [*buckets, f"{name}_sum{suffix} {_number(self.total)}", f"{name}_count{suffix} {cumulative[-1]}"]


class Metrics:
    """All metrics of one process. Recording is a dictionary access; text is made only by `render`.

    Args:
        max_input_length: upper bound of the buckets of prompt lengths, in tokens.
        max_total_tokens: upper bound of the buckets of generated and allowed tokens.
    """

    def __init__(self, max_input_length: int, max_total_tokens: int) -> None:
        self._counters: dict[str, dict[Labels, float]] = {}
        self._gauges: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}
        totals = _linear(max_total_tokens)
        self._buckets: dict[str, Sequence[float]] = {
            "tgi_request_input_length": _linear(max_input_length),
            "tgi_request_generated_tokens": totals,
            "tgi_request_max_new_tokens": totals,
            "tgi_batch_next_size": _BATCH_SIZE_BUCKETS,
        }

    def bound(self, name: str, bounds: Sequence[float]) -> None:
        """Let a histogram that has no observation yet have these buckets."""
        self._buckets[name] = bounds

    def counter(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        series = self._counters.setdefault(name, {})
        key = tuple(labels.items())
        series[key] = series.get(key, 0) + amount

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        self._gauges.setdefault(name, {})[tuple(labels.items())] = value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add an observation to a histogram; the name decides the buckets, durations are in seconds."""
        series = self._histograms.setdefault(name, {})
        key = tuple(labels.items())
        histogram = series.get(key)
        if histogram is None:
            histogram = series[key] = _Histogram(self._buckets.get(name, _DURATION_BUCKETS))
        histogram.observe(value)

    def render(self) -> str:
        """The Prometheus text of everything recorded so far."""
        lines: list[str] = []
        for kind, families in (("counter", self._counters), ("gauge", self._gauges)):
            for name, series in families.items():
                lines.append(f"# TYPE {name} {kind}")
                lines += [f"{name}{_braces(labels)} {_number(value)}" for labels, value in series.items()]
        for name, histograms in self._histograms.items():
            lines.append(f"# TYPE {name} histogram")
            for labels, histogram in histograms.items():
                lines += histogram.lines(name, labels)
        return "".join(f"{line}\n" for line in lines)


def _linear(upper: int, count: int = 100) -> list[float]:
    return [upper * step / count for step in range(1, count + 1)]


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escape(value)}"' for key, value in labels) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
