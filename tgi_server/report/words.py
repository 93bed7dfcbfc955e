"""What a report says in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tgi_server.report.findings import Findings, Row, value_of
from tgi_server.report.metrics import PREDICTED, TOKENS, Metric
from tgi_server.report.tables import number, percent
from tgi_server.sweep.objective import Objective

NO_PICTURES = (
    "There are no pictures, as matplotlib is not installed: pip install 'tgi-server[report]', and start the sweep "
    "again, which measures nothing twice."
)
UNBALANCED = (
    "No combination of the other settings was measured with every value here, so the means are those of different "
    "points, and part of the difference may come from the others."
)
CLOSE = 0.15
"""An error of the simulator that is small."""


def headline(found: Findings) -> str:
    """What a search found; else the best point, and whether it is better than where one would start."""
    if found.sweep.result:
        return " ".join(found.sweep.result)
    if found.best is None:
        return _nothing(found)
    best = found.best
    first = f"Best is point {best.point.number} ({settings(found, best)}{_load(found, best)}): "
    first += _value(best, found.metric)
    limits = f", within {_limits(found)}" if found.sweep.limits else ""
    return f"{first}{limits}. {_compared(found, best)}"


def settings(found: Findings, row: Row) -> str:
    """Those that vary, as on the command line."""
    return ", ".join(f"{name}={value_of(row.point, name)}" for name in found.varied) or "the only one"


def simulator(found: Findings) -> Iterator[str]:
    """How far the simulator is to be believed."""
    if found.sweep.doubt:
        yield found.sweep.doubt[:1].upper() + found.sweep.doubt[1:] + "."
    for metric in PREDICTED:
        errors = [abs(found.error(row, metric)) for row in found.predicted]
        known = [error for error in errors if math.isfinite(error)]
        if known:
            close = sum(error <= CLOSE for error in known)
            mean = number(100 * sum(known) / len(known), 1)
            yield f"{metric.name}: mean error {mean} %, {close} of {len(known)} points within {100 * CLOSE:.0f} %."
    if math.isfinite(found.tau):
        yield f"Kendall's tau of the points' order by {TOKENS.name}: {found.tau:.2f} (1: the same order, 0: none)."


def failures(found: Findings) -> list[str]:
    """A line for each repeat or request that failed, without the last words."""
    lines = list[str]()
    for row in found.rows:
        for trial in row.failures:
            why = trial.error or trial.stopped or "not told why"
            lines.append(f"Point {row.point.number}, repeat {trial.repeat}: {why}")
        for repeat, summary in enumerate(row.summaries, 1):
            if summary.failed:
                first = f"; the first: {summary.first_error}" if summary.first_error else ""
                counts = f"{summary.failed} of {summary.requests} requests failed"
                lines.append(f"Point {row.point.number}, measurement {repeat}: {counts}{first}")
    return lines


def _load(found: Findings, row: Row) -> str:
    """As far as it is not among the settings."""
    words = [] if "clients" in found.varied else [f"{row.point.clients} clients"]
    if row.point.rate is not None:
        words.append(f"{row.point.rate:g} requests a second")
    return "; " + ", ".join(words) if words else ""


def _nothing(found: Findings) -> str:
    if not found.measured:
        return "Nothing could be measured: every point failed." if found.rows else "There are no points."
    if found.sweep.limits:
        return f"No point keeps the limits ({_limits(found)})."
    return f"No point has a number of {found.metric.name}, so none is the best."


def _limits(found: Findings) -> str:
    names = {"ttft_p95": "first token p95", "itl_p95": "between tokens p95", "whole_p95": "whole answer p95"}
    return ", ".join(f"{names.get(name, name)} ≤ {1000 * limit:g} ms" for name, limit in found.sweep.limits.items())


def _value(row: Row, metric: Metric) -> str:
    interval = row.interval(metric)
    half = "" if interval.half is None else f" ± {number(interval.half, metric.digits)}"
    unit = f" {metric.unit}" if metric.unit else ""
    named = "" if metric.name.endswith("/s") else f"{metric.name} "
    return f"{named}{number(interval.mean, metric.digits)}{half}{unit}" + (
        f" {metric.name}" if metric.name.endswith("/s") else ""
    )


def _compared(found: Findings, best: Row) -> str:
    reference = found.reference
    if reference is None or reference is best:
        others = [row for row in found.measured if row is not best]
        what = "the documented defaults" if found.is_default(best) else "the first point under this load"
        return f"That is {what}; nothing measured is better." if others else "Nothing else was measured."
    name = f"point {reference.point.number}, " + (
        "the defaults" if found.is_default(reference) else "the first of this load"
    )
    gain, base = found.gain, reference.mean(found.metric)
    change = f"{abs(100 * gain.mean / base):.1f} %" if base else number(abs(gain.mean), found.metric.digits)
    direction = "less" if found.objective is Objective.latency else "more"
    return f"That is {change} {direction} than {name} ({_value(reference, found.metric)}), {_noise(found, base)}."


def _noise(found: Findings, base: float) -> str:
    gain = found.gain
    if gain.half is None:
        return "with too few repeats to tell whether that is more than the noise"
    ends = [percent(end / base) if base else number(end, 2) for end in (gain.mean - gain.half, gain.mean + gain.half)]
    certain = "more" if abs(gain.mean) > gain.half else "not more"
    return f"which is {certain} than the noise (95 % confidence interval of the difference: {ends[0]} to {ends[1]})"
