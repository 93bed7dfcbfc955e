"""The simulator of this package, asked about the points of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tgi_server.bench.summary import Summary
from tgi_server.bench.workload import Workload
from tgi_server.jobs.base import Stage, Stop, Task
from tgi_server.simulate import error, predict
from tgi_server.simulate.predict import Predictor
from tgi_server.sweep.predictions import Foresight


def foresight(stage: Stage, stop: Stop, directory: Path) -> Foresight:
    """What steps cost is measured on the stage, and kept in files of the directory."""
    return Foresight(_Simulator(Predictor(stage, directory, look=predict.until(stop))), _doubt)


class _Simulator:
    """See `predictions.Simulator`."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def learn(self, task: Task, report: Callable[[str, float], None]) -> None:
        predict.check(task.run.config, Workload.of(task.job))  # before anything is measured
        self._predictor.learn(task, report)

    def predict(self, task: Task, work: Workload) -> Summary:
        return self._predictor.predict(task, work)


def _doubt(measured: Sequence[Summary], expected: Sequence[Summary]) -> str | None:
    return error.doubt(error.compare(measured, expected))
