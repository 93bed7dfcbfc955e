"""The results of a sweep as a table, for terminals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tgi_server.bench.report import aligned
from tgi_server.bench.summary import Summary
from tgi_server.sweep.record import Described, Sweep
from tgi_server.sweep.statistics import Interval

COLUMNS: Mapping[str, tuple[Callable[[Summary], float], int]] = {
    "tokens/s": (lambda summary: summary.tokens_per_second, 1),
    "requests/s": (lambda summary: summary.requests_per_second, 2),
    "first token p95": (lambda summary: 1000 * summary.first_token.p95, 1),
    "between tokens p95": (lambda summary: 1000 * summary.between_tokens.p95, 1),
    "whole answer p95": (lambda summary: 1000 * summary.whole.p95, 1),
}
"""What is shown of measurements, and with how many digits; times in milliseconds."""


def rows(sweep: Sweep) -> list[str]:
    """The lines of the table: a head, and one for each point, with the reason where it failed."""
    names = list(dict.fromkeys(name for point in sweep.points for name in point.settings))
    head = ["", *names, "times", *COLUMNS]
    cells = [_cells(sweep, point, names) for point in sweep.points]
    table = aligned([head, *cells]).splitlines()
    return [table[0], *(line + _failure(sweep, point) for line, point in zip(table[1:], sweep.points, strict=True))]


def whole(sweep: Sweep) -> str:
    """The table and what its numbers are."""
    repeated = any(len(sweep.good(point.number)) > 1 for point in sweep.points)
    about = "times: how often it was measured; p95: what 95 in 100 do not exceed, in ms"
    mean = "; means, +- half a 95 % confidence interval" if repeated else ""
    return "\n".join([*rows(sweep), f"({about}{mean})"])


def short(summary: Summary) -> str:
    """One measurement in one line."""
    return ", ".join(f"{name} {value(summary):.{digits}f}" for name, (value, digits) in COLUMNS.items())


def _cells(sweep: Sweep, point: Described, names: Sequence[str]) -> list[str]:
    good = sweep.good(point.number)
    numbers = [Interval.of(map(value, good)).text(digits) for value, digits in COLUMNS.values()]
    return [str(point.number), *(point.settings.get(name, "") for name in names), str(len(good)), *numbers]


def _failure(sweep: Sweep, point: Described) -> str:
    failed = sweep.failed(point.number)
    if failed is not None:
        return "  " + "".join(each if each.isprintable() else " " for each in failed.error or "")
    lost = sum(summary.failed for summary in sweep.good(point.number))
    return f"  {lost} requests failed" if lost else ""
