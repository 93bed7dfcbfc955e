"""Results for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os.path import lexists
from pathlib import Path
from typing import Any

import orjson

from tgi_server.bench.load import Run
from tgi_server.bench.summary import Percentiles, Summary
from tgi_server.errors import ConfigError, UsageError

_LATENCIES = ("first token", "between tokens", "whole answer")


def table(summaries: Sequence[Summary]) -> str:
    """All measurements, a line each: rates, and latencies in milliseconds (p50, p95, p99)."""
    head = ["clients", "requests", "failed", "prompt", "new", "tokens/s", "requests/s"]
    head += [f"{name} p50/95/99" for name in _LATENCIES]
    return aligned([head, *(_row(summary) for summary in summaries)]) + "\n(prompt, new: mean tokens; times in ms)"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def number(value: float | None, digits: int = 1) -> str:
    """A number for a table; `-` where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def write(path: Path, facts: Mapping[str, Any], runs: Sequence[Run], summaries: Sequence[Summary]) -> None:
    """Everything as JSON; numbers that do not exist are null. Raises ConfigError."""
    measured = [
        asdict(summary) | {"records": [asdict(record) for record in run.records]}
        for run, summary in zip(runs, summaries, strict=True)
    ]
    try:
        path.write_bytes(orjson.dumps({**facts, "runs": measured}))
    except OSError as error:
        raise ConfigError(f"output={path}: cannot be written ({error.strerror})") from None


def check_output(option: str, path: Path) -> None:
    """To be asked before the work is done, not after: raises UsageError where no file can be written."""
    try:
        if path.is_file() or path.is_dir():
            path.open("ab").close()
        elif not lexists(path):  # else a device or a pipe, which opening might disturb
            path.touch()
            path.unlink()
    except OSError as error:
        raise UsageError(f"{option}={path}: cannot be written ({error.strerror})") from None


def _row(summary: Summary) -> list[str]:
    rates = [number(summary.tokens_per_second), number(summary.requests_per_second, 2)]
    sizes = [number(summary.prompt_tokens, 0), number(summary.new_tokens, 0)]
    latencies = [summary.first_token, summary.between_tokens, summary.whole]
    counts = [str(summary.clients), str(summary.requests), str(summary.failed)]
    return [*counts, *sizes, *rates, *map(_milliseconds, latencies)]


def _milliseconds(values: Percentiles) -> str:
    return " / ".join(number(1000 * value) for value in (values.p50, values.p95, values.p99))
