"""The job from command line to files, with servers and steps that are made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.tune.servers import queue, summary
from tgi_server.bench.completion import Record
from tgi_server.bench.http import BenchError
from tgi_server.bench.workload import Workload
from tgi_server.config import cli, load
from tgi_server.config.arguments import Arguments
from tgi_server.config.schema import ServerConfig
from tgi_server.errors import ModelError, TgiError
from tgi_server.jobs.base import Context, Task
from tgi_server.jobs.tune import Tune
from tgi_server.launcher.main import _varied
from tgi_server.launcher.supervise import StopSignals
from tgi_server.report import plots
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Sweep, Trial
from tgi_server.tune import main
from tgi_server.tune.guard import Guard


def seconds(config: ServerConfig) -> float:
    """Of a request: a quarter less where prompts are computed in pieces, a tenth less where nobody waits long."""
    chunked = 0.75 if config.prefill_chunk_tokens else 1.0
    return 0.1 * chunked * (0.9 if config.max_waiting_tokens <= 5 else 1.0)


@dataclass
class World:
    """Takes the place of servers and of what steps cost.

    Attributes:
        made: points and repeats that were measured.
        learned: how often it was measured what steps cost.
        problem: why that cannot be.
    """

    made: list[tuple[Mapping[str, str], int]] = field(default_factory=list)
    learned: int = 0
    problem: TgiError | None = None
    stop: StopSignals = field(default_factory=StopSignals)
    most: int = 1000

    def bench(self, context: Context, limits: Any, logs: Path, bar: bool) -> World:
        return self

    def predictor(self, stage: Any, directory: Path, look: Any) -> World:
        return self

    def learn(self, task: Task, report: Any) -> World:
        self.learned += 1
        if self.problem:
            raise self.problem
        return self

    def records(self, config: ServerConfig, work: Workload, clients: int, run: int) -> list[Record]:
        assert work.rate is not None and work.requests is not None
        return queue(work.rate, seconds(config), work.requests, work.seed)

    def __call__(self, point: Point, work: Workload, repeat: int, run: int, guard: Guard) -> Trial:
        if len(self.made) >= self.most:
            self.stop.request()
            raise BenchError("stopped before everything was measured")
        self.made.append((point.settings, repeat))
        records = self.records(point.task.run.config, work, 1, run)
        trial = Trial(point.number, repeat, "2026-01-01T00:00:00+00:00", 1.0, summary(rate=work.rate or 0.0))
        try:
            guard(1.0, records)
        except Exception as error:
            return replace(trial, stopped=str(error))
        return trial


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()
    monkeypatch.setattr(main, "Bench", made.bench)
    monkeypatch.setattr(main, "Predictor", made.predictor)
    monkeypatch.setattr(plots, "available", lambda: False)  # which take seconds
    monkeypatch.chdir(tmp_path)
    return made


GOODPUT = ["job=tune", "model=smollm2", "objective=goodput", "slo.ttft_p95_ms=1000", "requests=200"]
PINNED = ["max_batch_size=null", "prefix_caching=null", "waiting_served_ratio=1.2", "max_batch_prefill_tokens=4096"]


def tune(world: World, *argv: str) -> None:
    Tune.perform(_tasks(*argv), Context(cast(Any, None), world.stop, _varied, "python -m tgi_server job=tune ..."))


@cache
def _tasks(*argv: str) -> list[Task]:
    return [_task(one) for one in load.combinations(cli.parse([*GOODPUT, *argv], {}))]


def _task(arguments: Arguments) -> Task:
    run = load.composition(arguments)
    return Task(run, load.instantiate(run.config.job), arguments)


def test_the_best_is_found_and_written(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tune(world, *PINNED, "record=here")
    first, *_ = capsys.readouterr().out.splitlines()
    assert "requests/s with prefill_chunk_tokens=" in first and "more than the documented defaults" in first
    (tmp_path / "conf/deployment").mkdir(parents=True)
    (tmp_path / "conf/deployment/best.yaml").write_text((tmp_path / "here/best.yaml").read_text())
    best = load.compose(["deployment=best"], str(tmp_path / "conf"))
    assert best.prefill_chunk_tokens and best.model_id == load.compose(["model=smollm2"]).model_id
    page = (tmp_path / "here/report.md").read_text()
    assert "more than the documented defaults" in page
    sweep = Sweep.read(tmp_path / "here")
    assert world.learned == 1 and set(sweep.predictions) == {point.number for point in sweep.points}
    assert sweep.limits == {"ttft_p95": 1.0} and all("request_rate" in point.settings for point in sweep.points)


def test_a_second_start_goes_on(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["-m", "max_waiting_tokens=20,5"]
    world.most = 6
    with pytest.raises(BenchError, match="stopped; the same command goes on"):
        tune(world, *argv)
    world.stop, world.most = StopSignals(), 1000
    tune(world, *argv)
    keys = [(tuple(settings.items()), repeat) for settings, repeat in world.made]
    assert len(keys) == len(set(keys)) > 6
    assert "with max_waiting_tokens=5" in capsys.readouterr().out
    assert len(list(Path("sweeps").iterdir())) == 1
    world.made.clear()
    tune(world, *argv)
    assert world.made == []


def test_without_simulations_options_are_measured_one_by_one(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.problem = ModelError("the model cannot be simulated")
    tune(world, *PINNED, "max_waiting_tokens=20")
    out, err = capsys.readouterr()
    assert "not simulated: the model cannot be simulated" in err and "with prefill_chunk_tokens=" in out
    assert world.learned == 1
