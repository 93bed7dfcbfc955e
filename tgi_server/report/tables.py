"""The tables of a report, for both of its forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tgi_server.report.findings import Effect, Findings, Row, value_of
from tgi_server.report.metrics import BETWEEN_P95, FIRST_P95, METRICS, PREDICTED, TOKENS, WHOLE_P95, Metric
from tgi_server.sweep.statistics import Interval

LATENCIES = (FIRST_P95, BETWEEN_P95, WHOLE_P95)
"""The times that throughput is paid with."""


@dataclass(frozen=True)
class Cell:
    """One field of a table.

    Attributes:
        note: what is less important and stands behind or below it.
        left: whether it is a text rather than a number.
    """

    text: str
    note: str = ""
    left: bool = False


@dataclass(frozen=True)
class Table:
    """Attributes: `marked` are the numbers of the rows to set off, from 0."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    marked: frozenset[int] = frozenset()

    @property
    def left(self) -> list[bool]:
        """Whether a column is of texts."""
        return [bool(self.rows) and all(row[number].left for row in self.rows) for number in range(len(self.head))]


def points(found: Findings) -> Table:
    """Every point with its settings and numbers; failures say so in place of these."""
    head = ["point", *found.varied, "repeats", *(metric.title for metric in METRICS)]
    rows = [[*_named(found, row, _remark(found, row)), *_measured(row)] for row in found.rows]
    return Table(head, rows, frozenset(i for i, row in enumerate(found.rows) if row is found.best))


def effect(of: Effect, objective: Metric) -> Table:
    """A line for each value: points that count, and means over them."""
    metrics = dict.fromkeys((objective, TOKENS, *LATENCIES))
    rows = [
        [
            Cell(value, left=True),
            Cell(str(len(of.compared[value]))),
            *(Cell(number(of.mean(value, metric), metric.digits)) for metric in metrics),
        ]
        for value in of.levels
    ]
    return Table([of.setting, "points", *(metric.title for metric in metrics)], rows)


def front(found: Findings, latency: Metric) -> Table:
    """The points on the front, fewest tokens/s first."""
    rows = [
        [*_named(found, row), *(_number(row.interval(metric), metric) for metric in (TOKENS, latency))]
        for row in found.front(latency)
    ]
    return Table(["point", *found.varied, TOKENS.title, latency.title], rows)


def predictions(found: Findings) -> Table:
    """Measured, simulated and the error of each number, of the points where both are known."""
    rows = [
        [Cell(str(row.point.number)), *(cell for metric in PREDICTED for cell in _compared(found, row, metric))]
        for row in found.predicted
    ]
    heads = [name for metric in PREDICTED for name in (metric.title, "simulated", "error")]
    return Table(["point", *heads], rows)


def number(value: float, digits: int) -> str:
    """For a table; `-` where there is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def percent(part: float, digits: int = 1) -> str:
    """With its sign; `-` where there is none."""
    return f"{100 * part:+.{digits}f} %" if math.isfinite(part) else "-"


def _named(found: Findings, row: Row, remark: str = "") -> list[Cell]:
    return [Cell(str(row.point.number), remark), *(Cell(value_of(row.point, name), left=True) for name in found.varied)]


def _measured(row: Row) -> list[Cell]:
    tried = len(row.summaries) + len(row.failures)
    repeats = str(tried) if not row.failures else f"{len(row.summaries)} of {tried}"
    return [Cell(repeats), *(_number(row.interval(metric), metric) for metric in METRICS)]


def _number(interval: Interval, metric: Metric) -> Cell:
    note = "" if interval.half is None else f"± {number(interval.half, metric.digits)}"
    return Cell(number(interval.mean, metric.digits), note)


def _compared(found: Findings, row: Row, metric: Metric) -> list[Cell]:
    simulated = metric.of(found.sweep.predictions[row.point.number])
    values = [Cell(number(value, metric.digits)) for value in (row.mean(metric), simulated)]
    return [*values, Cell(percent(found.error(row, metric)))]


def _remark(found: Findings, row: Row) -> str:
    failed = sum(summary.failed for summary in row.summaries)
    words = {
        "best": row is found.best,
        "beyond a limit": bool(found.sweep.limits and row.summaries and not failed and not found.keeps(row)),
        f"{failed} requests failed": failed > 0,
        "given up": any(trial.stopped for trial in row.failures),
        "failed": any(trial.stopped is None for trial in row.failures),
        "not measured": not row.failures and not row.summaries,
    }
    return ", ".join(word for word, holds in words.items() if holds)
