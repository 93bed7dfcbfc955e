"""What a simulator expects is beside what was measured, and its failures do no harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.sweep.stages import Measured, context, measuring, numbers, summary, tasks
from tgi_server.bench.http import BenchError
from tgi_server.bench.summary import Summary
from tgi_server.bench.workload import Workload
from tgi_server.errors import ModelError, TgiError
from tgi_server.jobs.base import Context, Task
from tgi_server.launcher.supervise import StoppedError, StopSignals
from tgi_server.sweep import main
from tgi_server.sweep.predictions import Foresight, mean
from tgi_server.sweep.record import Sweep, Trial

POINTS = ("max_waiting_tokens=5,20", "quantize=none,eetq")


@dataclass
class Simulator:
    """Expects as many tokens a second as the option says.

    Attributes:
        learned: methods of quantisation, in their order.
        fails: what learning some of them raises.
    """

    fails: Callable[[str], Exception | None] = lambda method: None
    learned: list[str] = field(default_factory=list)

    def learn(self, task: Task, report: Callable[[str, float], None]) -> None:
        method = task.run.config.quantize._target_.rpartition(".")[2]
        self.learned.append(method)
        report("Measuring steps", 0.5)
        if error := self.fails(method):
            raise error

    def predict(self, task: Task, work: Workload) -> Summary:
        return summary(float(task.run.config.max_waiting_tokens))


def go(directory: Path, simulator: Simulator, measured: Measured, within: Context | None = None) -> Sweep:
    def doubt(real: Sequence[Summary], expected: Sequence[Summary]) -> str | None:
        return " ".join(f"{a.tokens_per_second:g}/{b.tokens_per_second:g}" for a, b in zip(real, expected, strict=True))

    with measuring(measured):
        found = tasks(*POINTS, record=str(directory), repeats=2)
        main.run(found, within or context(), lambda *_: (), lambda _: Foresight(simulator, doubt))
    return Sweep.read(directory)


def test_shards_are_asked_once_for_all_points_that_have_them(tmp_path: Path) -> None:
    simulator = Simulator()
    sweep = go(tmp_path, simulator, Measured())
    assert simulator.learned == ["NoQuantize", "Eetq"]
    assert {number: each.tokens_per_second for number, each in sweep.predictions.items()} == {1: 5, 2: 5, 3: 20, 4: 20}
    assert sweep.doubt == "100/5 300/20 200/5 400/20"
    again = Simulator()
    assert go(tmp_path, again, Measured()).predictions == sweep.predictions
    assert again.learned == []


def test_what_cannot_be_simulated_is_left_out(tmp_path: Path) -> None:
    simulator = Simulator(lambda method: ModelError("no") if method == "Eetq" else None)
    sweep = go(tmp_path, simulator, Measured())
    assert (sorted(sweep.predictions), len(sweep.trials)) == ([1, 3], 8)
    assert simulator.learned == ["NoQuantize", "Eetq"]


@pytest.mark.parametrize("error", [StoppedError(), TgiError("the router ended")])
def test_a_stop_while_it_learns(tmp_path: Path, error: Exception) -> None:
    stop = StopSignals()

    def fails(method: str) -> Exception:
        stop.request()
        return error

    measured = Measured()
    with pytest.raises(BenchError, match="stopped; the same command goes on with 0 of 8 measured"):
        go(tmp_path, Simulator(fails), measured, context(stop))
    assert measured.runs == []
    assert sorted(go(tmp_path, Simulator(), measured).predictions) == [1, 2, 3, 4]
    assert len(numbers(measured.runs)) == 8


def test_means() -> None:
    trials = [Trial(1, repeat, "", 1.0, summary(10.0 * repeat, whole=float(repeat))) for repeat in (1, 2)]
    found = mean(Sweep({}, [], trials), 1)
    assert (found.tokens_per_second, found.whole.p95, found.requests) == (15.0, 1.5, 100)
