"""By what a sweep is known again, and what is told of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import orjson

import tgi_server
from tgi_server.bench import machine
from tgi_server.bench.workload import Workload
from tgi_server.config.schema import NetworkOptions, TelemetryOptions
from tgi_server.sweep.journal import Identity
from tgi_server.sweep.points import Point

_PLACES = {field.name for group in (NetworkOptions, TelemetryOptions) for field in fields(group)} | {
    "shard_uds_path", "master_addr", "master_port",
}  # fmt: skip
"""Options that say where a server is and what it tells, not what it does."""
_LONG = 400
"""Characters beyond which a value is known by its hash."""


def identify(points: Sequence[Point], command: str) -> Identity:
    """What makes a sweep over these points this one."""
    marks = {"version": tgi_server.__version__, **machine_marks(), "points": str(len(points))}
    for point in points:
        marks |= {f"point {point.number}, {name}": value for name, value in _marks(point)}
    facts = {
        "Version": tgi_server.__version__, "Command": command, "Model": _model(points), **traffic(points),
        **machine.facts(), "Time": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return Identity(marks, facts, [point.described() for point in points], {})


def directory(points: Sequence[Point], marks: Mapping[str, str]) -> Path:
    """Where the record of a sweep is that was given no place: the same for the same sweep."""
    digest = hashlib.sha256(orjson.dumps(sorted(marks.items()))).hexdigest()[:8]
    model = re.sub(r"[^\w.-]+", "-", _model(points).rstrip("/").rpartition("/")[2]).strip("-.")[:60]
    return Path("sweeps") / f"{model or 'sweep'}-{digest}"


def machine_marks() -> dict[str, str]:
    """What measurements on one machine have in common."""
    facts = machine.facts()
    return {"processor": facts["Processor"], "cores": facts["Cores"]}


def traffic(points: Sequence[Point]) -> dict[str, str]:
    """What is asked at all points, in one line under `Traffic`."""
    every = [_traffic(point.work) for point in points]
    same = {name: value for name, value in every[0].items() if all(each.get(name) == value for each in every)}
    words = [f"{name}={value}" for name, value in same.items() if value not in ("null", "[]", "{}", "")]
    return {"Traffic": ", ".join(words)}


def _model(points: Sequence[Point]) -> str:
    first = points[0].task
    return first.job.target or first.run.config.model_id


def _marks(point: Point) -> Iterator[tuple[str, str]]:
    described = point.described()
    if point.task.job.target is not None:
        yield "target", point.task.job.target
    kept = {name: value for name, value in described.options.items() if name not in _PLACES}
    yield from (kept | dict(described.settings)).items()
    yield "clients", str(described.clients)
    yield from ((f"traffic {name}", value) for name, value in _traffic(point.work).items())


def _traffic(work: Workload) -> dict[str, str]:
    values: Mapping[str, Any] = {name: value for name, value in asdict(work).items() if name != "clients"}
    return {name: _brief(value) for name, value in values.items()}


def _brief(value: Any) -> str:
    """As JSON, names and texts as they are, or the hash of that where it is long."""
    if isinstance(value, (str, Enum)):
        text = value.name if isinstance(value, Enum) else value
    else:
        text = orjson.dumps(value, default=lambda one: getattr(one, "name", str(one))).decode()
    return text if len(text) <= _LONG else f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"
