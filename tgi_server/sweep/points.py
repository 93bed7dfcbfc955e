"""The points of a sweep: one configuration under one load each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tgi_server.bench.workload import Workload
from tgi_server.config import describe, options, parts
from tgi_server.config.arguments import Composition
from tgi_server.config.describe import MASK, shown
from tgi_server.jobs.base import Task
from tgi_server.sweep.record import Described

_OF_THE_SWEEP = ("job.output", "job.record", "job.repeats", "job.simulate", "job.objective", "job.clients")
"""Fields of the job that make no point another one; its clients are told by their number."""


@dataclass(frozen=True)
class Point:
    """One configuration under one load.

    Attributes:
        number: from 1 on.
        settings: what is not the same at all points, as it is written: `{"max_waiting_tokens": "5", "clients": "8"}`.
        task: the configuration, and the job with its fields.
        work: what is asked of the server; it has one number of clients.
    """

    number: int
    settings: Mapping[str, str]
    task: Task
    work: Workload

    @property
    def name(self) -> str:
        """In one line: its settings, or its number where there are none."""
        words = [f"{name}={value}" for name, value in self.settings.items()]
        return " ".join(words) or f"point {self.number}"

    def described(self) -> Described:
        """As the record knows it."""
        changed = differences(self.task.run)
        return Described(self.number, self.settings, changed, self.work.clients[0], self.work.rate)


def points_of(tasks: Sequence[Task]) -> list[Point]:
    """The points of some tasks with a load: one for each number of clients that a task names. Raises UsageError."""
    loads = []
    for task, settings in zip(tasks, _settings(tasks), strict=True):
        work = Workload.of(task.job)
        loads += [(task, settings, replace(work, clients=(clients,))) for clients in work.clients]
    several = len({work.clients for _, _, work in loads}) > 1
    return [
        Point(number, {**settings, **({"clients": str(work.clients[0])} if several else {})}, task, work)
        for number, (task, settings, work) in enumerate(loads, 1)
    ]


def differences(run: Composition) -> dict[str, str]:
    """See `record.Described.options`."""
    found: dict[str, str] = {}
    values = options.values(run.config)
    for name in describe.differing(run.config):
        if name.partition(".")[0] == "job" or options.is_secret(name):
            continue
        preset = re.fullmatch(r"group file .*/model/([^/]+)\.yaml", run.origins.get(name, ""))
        if preset:
            found["model"] = preset[1]
        elif name in parts.PARTS:
            found |= _chosen(name, values[name])
        else:
            found[name] = shown(values[name])
    return found


def _chosen(part: str, target: str) -> dict[str, str]:
    choice = next((choice for choice, path in parts.choices(part).items() if path == target), None)
    return {part: choice} if choice else {f"{part}._target_": target}


def _settings(tasks: Sequence[Task]) -> list[dict[str, str]]:
    """For each task what is written otherwise than for others."""
    written = [_written(task) for task in tasks]
    names = [name for name in dict.fromkeys(name for each in written for name in each) if name not in _OF_THE_SWEEP]
    different = [name for name in names if len({each.get(name) for each in written}) > 1]
    return [
        {options.short(name): _shown(task, name, each.get(name)) for name in different}
        for task, each in zip(tasks, written, strict=True)
    ]


def _written(task: Task) -> dict[str, str]:
    """The overrides by the names of their options; the last one counts."""
    pairs = (override.lstrip("+~").partition("=") for override in task.arguments.overrides)
    return {name: text for name, _, text in pairs}


def _shown(task: Task, name: str, text: str | None) -> str:
    if options.is_secret(name):
        return MASK
    if text is None:  # written for other tasks only
        values: Mapping[str, Any] = options.values(task.run.config, whole=True)
        return shown(values[name]) if name in values else "default"
    quoted = re.fullmatch(r"(['\"])(.*)\1", text, re.DOTALL)
    return describe.masked_url(quoted[2].replace(f"\\{quoted[1]}", quoted[1]) if quoted else text)
