"""The results of a sweep as JSON, where `output` asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from tgi_server.errors import ConfigError
from tgi_server.jobs.base import Task
from tgi_server.sweep.points import points_of
from tgi_server.sweep.record import Sweep

Files = Mapping[str, Sequence[int]]
"""The points by number that a path is to hold."""


def asked(tasks: Sequence[Task]) -> Files:
    """One file for each different `output` of the tasks, with the points of those."""
    files: dict[str, list[int]] = {}
    for point in points_of(tasks):
        if point.task.job.output is not None:
            files.setdefault(point.task.job.output, []).append(point.number)
    return files


def write(files: Files, sweep: Sweep) -> list[Path]:
    """Write them and return their paths. Raises ConfigError."""
    for path, numbers in files.items():
        found = {"facts": sweep.facts, "points": list(_points(sweep, numbers))}
        try:
            Path(path).write_bytes(orjson.dumps(found))
        except OSError as error:
            raise ConfigError(f"output={path}: cannot be written ({error.strerror})") from None
    return [Path(path) for path in files]


def _points(sweep: Sweep, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    for point in sweep.points:
        if point.number in numbers:
            yield asdict(point) | {"trials": [asdict(one) for one in sweep.trials if one.point == point.number]}
