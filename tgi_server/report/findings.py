"""What a sweep found: points with their numbers, the best, the front, effects of settings, errors of predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean

from tgi_server.bench.summary import Summary
from tgi_server.config import options
from tgi_server.report.metrics import OF_OBJECTIVE, TOKENS, Metric
from tgi_server.report.noise import difference
from tgi_server.sweep.objective import Limits, Objective, score
from tgi_server.sweep.record import Described, Sweep, Trial
from tgi_server.sweep.statistics import Interval


@dataclass(frozen=True)
class Row:
    """A point and what came of it.

    Attributes:
        summaries: the measurements, by repeat.
        failures: the repeats that came to nothing.
    """

    point: Described
    summaries: Sequence[Summary]
    failures: Sequence[Trial]

    def values(self, metric: Metric) -> list[float]:
        """One a repeat."""
        return [metric.of(summary) for summary in self.summaries]

    def interval(self, metric: Metric) -> Interval:
        """Mean over the repeats."""
        return Interval.of(self.values(metric))

    def mean(self, metric: Metric) -> float:
        """NaN where nothing was measured."""
        return self.interval(metric).mean


@dataclass(frozen=True)
class Effect:
    """What a setting does.

    Attributes:
        levels: the points of each value, failed ones too; values in their order.
        compared: those of the points that count for the mean of a value.
        balanced: whether these are the same combinations of the other settings for each value.
    """

    setting: str
    levels: Mapping[str, Sequence[Row]]
    compared: Mapping[str, Sequence[Row]]
    balanced: bool

    def mean(self, value: str, metric: Metric) -> float:
        """The mean over the points; NaN where nothing was measured."""
        means = [row.mean(metric) for row in self.compared[value]]
        there = [mean for mean in means if not math.isnan(mean)]
        return fmean(there) if there else math.nan


@dataclass(frozen=True)
class Findings:
    """All that a report tells."""

    sweep: Sweep
    objective: Objective = Objective.throughput

    @cached_property
    def rows(self) -> list[Row]:
        """The points in their order."""
        last = {(trial.point, trial.repeat): trial for trial in self.sweep.trials}
        trials = [last[key] for key in sorted(last)]
        return [_row(point, [trial for trial in trials if trial.point == point.number]) for point in self.sweep.points]

    @property
    def measured(self) -> list[Row]:
        """Those with at least one measurement."""
        return [row for row in self.rows if row.summaries]

    @property
    def metric(self) -> Metric:
        """What the objective is about."""
        return OF_OBJECTIVE[self.objective]

    @cached_property
    def varied(self) -> list[str]:
        """The settings that have several values."""
        names = dict.fromkeys(name for point in self.sweep.points for name in point.settings)
        return [name for name in names if len({point.settings.get(name) for point in self.sweep.points}) > 1]

    def keeps(self, row: Row) -> bool:
        """Whether no request failed and all limits were kept, in each repeat."""
        limits = Limits(**self.sweep.limits)
        return bool(row.summaries) and all(limits.kept(summary) for summary in row.summaries)

    @cached_property
    def best(self) -> Row | None:
        """The one that a search chose; else of those that keep the limits the one that scores best, or None.

        Without limits a point with failed requests is the best only where all have such.
        """
        if self.sweep.chosen is not None:
            return next((row for row in self.measured if row.point.number == self.sweep.chosen), None)
        fit = [row for row in self.rows if self.keeps(row)] or ([] if self.sweep.limits else self.measured)
        scores = {row.point.number: self._score(row) for row in fit}
        known = [row for row in fit if not math.isnan(scores[row.point.number])]
        return max(known, key=lambda row: scores[row.point.number], default=None)

    @cached_property
    def reference(self) -> Row | None:
        """What the best is compared with: of the points under the same load the one with the defaults, or the first."""
        if self.best is None:
            return None
        same = [row for row in self.measured if _load(row.point) == _load(self.best.point)]
        return next((row for row in same if self.is_default(row)), same[0])

    def is_default(self, row: Row) -> bool:
        """Whether all options that are not the same at all points have their documented defaults there."""
        points = self.sweep.points
        names = {name for point in points for name in point.options}
        return not any(
            name in row.point.options and len({point.options.get(name) for point in points}) > 1 for name in names
        )

    @cached_property
    def gain(self) -> Interval:
        """The objective's number of the best less that of the reference; NaN where there is no best."""
        if self.best is None or self.reference is None:
            return Interval(math.nan, None)
        return difference(self.best.values(self.metric), self.reference.values(self.metric))

    def front(self, latency: Metric) -> list[Row]:
        """The points of which no other has both more tokens/s and a shorter time; fewest tokens/s first."""
        found = list[Row]()
        shortest = math.inf
        known = [row for row in self.measured if math.isfinite(row.mean(TOKENS)) and math.isfinite(row.mean(latency))]
        for row in sorted(known, key=lambda row: (-row.mean(TOKENS), row.mean(latency))):
            if row.mean(latency) < shortest:
                shortest = row.mean(latency)
                found.insert(0, row)
        return found

    @cached_property
    def effects(self) -> list[Effect]:
        """Of each setting that varies."""
        return [self._effect(name) for name in self.varied]

    @property
    def predicted(self) -> list[Row]:
        """The measured points of which the simulator has told what it expects."""
        return [row for row in self.measured if row.point.number in self.sweep.predictions]

    def error(self, row: Row, metric: Metric) -> float:
        """By what part of the measured value the simulator's is larger; NaN where either is missing."""
        predicted = self.sweep.predictions.get(row.point.number)
        measured = row.mean(metric)
        return math.nan if predicted is None or not measured else metric.of(predicted) / measured - 1

    @cached_property
    def tau(self) -> float:
        """Kendall's tau-b of simulated and measured tokens/s; NaN of fewer than two points, or where all are equal."""
        predictions = self.sweep.predictions
        pairs = [(row.mean(TOKENS), predictions[row.point.number].tokens_per_second) for row in self.predicted]
        signs = [(_sign(a[0] - b[0]), _sign(a[1] - b[1])) for a, b in combinations(pairs, 2)]
        scale = math.sqrt(sum(x * x for x, _ in signs) * sum(y * y for _, y in signs))
        return sum(x * y for x, y in signs) / scale if scale else math.nan

    def _score(self, row: Row) -> float:
        return fmean(score(self.objective, summary) for summary in row.summaries)

    def _effect(self, setting: str) -> Effect:
        values = _ordered({value_of(row.point, setting): None for row in self.rows})
        levels = {value: [row for row in self.rows if value_of(row.point, setting) == value] for value in values}
        others = [name for name in self.varied if name != setting]
        there = [{_values(row.point, others) for row in rows if row.summaries} for rows in levels.values() if rows]
        whole = set.intersection(*there)
        compared = {
            value: [row for row in rows if row.summaries and (not whole or _values(row.point, others) in whole)]
            for value, rows in levels.items()
        }
        return Effect(setting, levels, compared, bool(whole))


def value_of(point: Described, setting: str) -> str:
    """As it is shown."""
    return point.settings.get(setting, "(not set)")


def _row(point: Described, trials: Sequence[Trial]) -> Row:
    good = [trial for trial in trials if trial.summary is not None and trial.stopped is None]
    summaries = [trial.summary for trial in good if trial.summary is not None]
    return Row(point, summaries, [trial for trial in trials if trial not in good])


def _load(point: Described) -> tuple[object, ...]:
    """What is asked of the server there."""
    asked = [item for item in point.settings.items() if options.canonical(item[0]).startswith("job.")]
    return point.clients, point.rate, tuple(sorted(asked))


def _values(point: Described, settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(value_of(point, name) for name in settings)


def _ordered(values: Mapping[str, None]) -> list[str]:
    """Numbers by size, after texts, which stay in their order."""
    texts = [value for value in values if _number(value) is None]
    numbers = [value for value in values if _number(value) is not None]
    return texts + sorted(numbers, key=lambda value: _number(value) or 0.0)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
