"""Counters, gauges and histograms of the table in `names`, written in the Prometheus text format.

Own code, because the usual client library writes counters under other names: in this format it puts `_total` behind the
name of each, also behind one that a collector of ours makes, so that the series of `tgi_request_count` would come
without a type. Nothing here is thread-safe: everything is recorded and written on one event loop.

A counter or histogram appears with its first update. Gauges that something else knows are asked for when they are
written (`Metrics.read`). What is not in the table cannot be recorded: a series is checked when it is made, once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from tgi_server.telemetry.names import FAMILIES, Bounds, Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]

_SECONDS = [0.0001 * 1.5**k for k in range(1, 36)]
_BATCH_SIZES = [float(size) for size in range(1, 1025)]


class Counter:
    """A number that grows."""

    __slots__ = ("shown", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.shown = False

    def add(self, amount: float = 1) -> None:
        """Count so many more; 0 lets the series appear."""
        self.value += amount
        self.shown = True


class Histogram:
    """Observations counted by the first bucket bound that is not below them.

    Args:
        bounds: of the buckets, rising.
        name, labels: what its lines begin with.
    """

    __slots__ = ("_bounds", "_counts", "_heads", "_labels", "_name", "_total")

    def __init__(self, bounds: Sequence[float], name: str, labels: Labels) -> None:
        self._name, self._labels = name, labels
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._heads: list[str] = []  # of the lines, made when they are needed first

    def observe(self, value: float, count: int = 1) -> None:
        """Add `count` observations of the same value."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._total += value * count

    def lines(self) -> list[str]:
        """Buckets, sum and count; none before the first observation."""
        cumulative = list(accumulate(self._counts))
        if not cumulative[-1]:
            return []
        if not self._heads:
            self._heads = list(self._made_heads())
        values = [*map(str, cumulative), _number(self._total), str(cumulative[-1])]
        return [head + value for head, value in zip(self._heads, values, strict=True)]

    def _made_heads(self) -> Iterable[str]:
        for bound in (*map(_number, self._bounds), "+Inf"):
            yield f"{self._name}_bucket{_braces((*self._labels, ('le', bound)))} "
        for suffix in ("sum", "count"):
            yield f"{self._name}_{suffix}{_braces(self._labels)} "


class Metrics:
    """All metrics of one process. Recording is a dictionary access; text is made only by `render`.

    Who records often keeps the series (`counted`, `histogram`). All methods raise KeyError for a name that is not
    declared as of this kind, ValueError for labels that are not, when the series is used first.

    Args:
        max_input_length: upper bound of the buckets of prompt lengths, in tokens.
        max_total_tokens: upper bound of the buckets of generated and allowed tokens.
    """

    def __init__(self, max_input_length: int, max_total_tokens: int) -> None:
        self._counters: dict[str, dict[Labels, Counter]] = {name: {} for name in _of("counter")}
        self._gauges: dict[str, dict[Labels, float]] = {name: {} for name in _of("gauge")}
        self._histograms: dict[str, dict[Labels, Histogram]] = {name: {} for name in _of("histogram")}
        self._read: dict[str, dict[Labels, Callable[[], float | None]]] = {}
        self._bounds: dict[Bounds | None, Sequence[float]] = {
            "seconds": _SECONDS,
            "input": _linear(max_input_length),
            "total": _linear(max_total_tokens),
            "batch": _BATCH_SIZES,
            "guesses": range(1),
        }

    def guesses(self, most: int) -> None:
        """How many tokens may be guessed of a text in a step, known before the first of them is told."""
        self._bounds["guesses"] = range(most + 1)

    def counter(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        found = self._counters[name].get(tuple(labels.items()))
        (found or self.counted(name, **labels)).add(amount)

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        series, key = self._gauges[name], tuple(labels.items())
        if key not in series:
            FAMILIES[name].check(labels)
        series[key] = value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add an observation to a histogram; durations are in seconds."""
        found = self._histograms[name].get(tuple(labels.items()))
        (found or self.histogram(name, **labels)).observe(value)

    def counted(self, name: str, /, **labels: str) -> Counter:
        """A counter."""
        series, key = self._counters[name], tuple(labels.items())
        if (found := series.get(key)) is None:
            FAMILIES[name].check(labels)
            found = series[key] = Counter()
        return found

    def histogram(self, name: str, /, **labels: str) -> Histogram:
        """A histogram."""
        series, key = self._histograms[name], tuple(labels.items())
        if (found := series.get(key)) is None:
            family = FAMILIES[name]
            family.check(labels)
            found = series[key] = Histogram(self._bounds[family.bounds], name, key)
        return found

    def read(self, name: str, value: Callable[[], float | None], /, **labels: str) -> None:
        """Ask `value` for a gauge, or for a counter that something else counts, whenever metrics are written.

        What is None then is left out.
        """
        if name not in self._gauges and name not in self._counters:
            raise KeyError(name)
        FAMILIES[name].check(labels)
        self._read.setdefault(name, {})[tuple(labels.items())] = value

    def render(self) -> str:
        """The Prometheus text of everything that has a value."""
        text: list[str] = []
        for family in FAMILIES.values():
            if lines := self._lines(family):
                text += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}", *lines]
        return "".join(f"{line}\n" for line in text)

    def _lines(self, family: Family) -> list[str]:
        name = family.name
        if family.kind == "histogram":
            return [line for histogram in self._histograms[name].values() for line in histogram.lines()]
        if family.kind == "counter":
            counters = self._counters[name].items()
            values: dict[Labels, float] = {labels: counter.value for labels, counter in counters if counter.shown}
        else:
            values = dict(self._gauges[name])
        asked = ((labels, value()) for labels, value in self._read.get(name, {}).items())
        values |= {labels: value for labels, value in asked if value is not None}
        return [f"{name}{_braces(labels)} {_number(value)}" for labels, value in values.items()]


def _of(kind: str) -> list[str]:
    return [family.name for family in FAMILIES.values() if family.kind == kind]


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
