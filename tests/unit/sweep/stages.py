"""Sweeps over real configurations, on a stage whose servers are made up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

from tgi_server.bench.summary import Percentiles, Summary
from tgi_server.config import cli, load
from tgi_server.config.arguments import Composition
from tgi_server.jobs.base import Context, Task
from tgi_server.launcher.supervise import StopSignals
from tgi_server.sweep import driver
from tgi_server.sweep.points import Point

_T = TypeVar("_T")


def tasks(*words: str, **fields: Any) -> list[Task]:
    """What `-m job=bench WORDS` asks for, some fields of the job set otherwise."""
    return [replace(task, job=replace(task.job, **fields)) for task in _composed(words)]


@cache
def _composed(words: Sequence[str]) -> list[Task]:
    arguments = cli.parse(["-m", "job=bench", *words], {})
    runs = [(each, load.composition(each)) for each in load.combinations(arguments)]
    return [Task(run, load.instantiate(run.config.job), each) for each, run in runs]


def summary(tokens: float = 100.0, whole: float = 1.0, **other: Any) -> Summary:
    same = Percentiles(whole, whole, whole)
    values: dict[str, Any] = {
        "clients": 1, "seconds": 10.0, "requests": 100, "failed": 0, "first_error": None, "prompt_tokens": 10.0,
        "new_tokens": 10.0, "events": 10.0, "tokens_per_second": tokens, "requests_per_second": tokens / 10,
        "first_token": same, "between_tokens": same, "each_token": same, "whole": same,
    }  # fmt: skip
    return Summary(**{**values, **other})


@dataclass
class Measured:
    """Takes the place of the load generator.

    Attributes:
        of: what comes of a point; an exception is raised.
        runs: points and numbers of runs, in their order.
    """

    of: Callable[[Point], Summary | Exception] = lambda point: summary(100.0 * point.number)
    runs: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, point: Point, run: int, stop: Any, watch: Callable[[float, int], None]) -> Summary:
        self.runs.append((point.number, run))
        watch(0.5, 7)
        result = self.of(point)
        if isinstance(result, Exception):
            raise result
        return result


class FakeStage:
    """Counts what would be started anew: shards and a router each time where they differ from those before."""

    def __init__(self) -> None:
        self.logs: list[Path | None] = []

    def serve(self, run: Composition) -> None:
        raise AssertionError("nobody asked for that")

    def beside(self, run: Composition, work: Callable[[], _T], log: Path | None = None) -> _T:
        self.logs.append(log)
        print("the server says something")
        return work()

    def ask_shards(self, run: Composition, module: str, *arguments: str, report: Any) -> str:
        raise AssertionError("nobody asked for that")


def context(stop: StopSignals | None = None) -> Context:
    def vary(task: Task, settings: Mapping[str, str]) -> Task:
        raise AssertionError("nobody asked for that")

    return Context(FakeStage(), stop or StopSignals(), vary, "python -m tgi_server ...")


@contextlib.contextmanager
def measuring(measured: Measured) -> Iterator[Measured]:
    """Let a sweep measure so."""
    with mock.patch.object(driver, "measured", measured):
        yield measured


def stage_of(made: Context) -> FakeStage:
    return cast(FakeStage, made.stage)


def numbers(runs: Sequence[tuple[int, int]]) -> list[int]:
    return [number for number, _ in runs]
