"""Points that Hydra's own sweeper chooses, from the command to files and exit status; servers are made up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sweep.stages import Measured, context, measuring, stage_of, summary
from tgi_server.bench.http import BenchError
from tgi_server.config import cli
from tgi_server.errors import TgiError, UsageError
from tgi_server.jobs.base import Context
from tgi_server.launcher import main, plugins
from tgi_server.launcher.supervise import StopSignals
from tgi_server.report import plots
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Sweep

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
OWN = ("hydra/sweeper=basic", "job=bench", "model=smollm2", "clients=3", "simulate=false")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)  # which take seconds


def swept(directory: Path, measured: Measured, *argv: str, within: Context | None = None) -> Sweep:
    arguments = cli.parse(["-m", *OWN, f"record={directory}", *argv], {})
    arguments.check()
    with measuring(measured):
        plugins.run(arguments, within or context(), main._task)
    return Sweep.read(directory)


def test_what_is_chosen_is_measured_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.json"
    measured = Measured()
    within = context()
    argv = ("max_waiting_tokens=5,20", f"output={output}", "repeats=2")
    sweep = swept(tmp_path / "here", measured, *argv, within=within)
    assert [(trial.point, trial.repeat) for trial in sweep.trials] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [point.settings for point in sweep.points] == [{"max_waiting_tokens": "5"}, {"max_waiting_tokens": "20"}]
    assert len(stage_of(within).logs) == 4
    out = capsys.readouterr().out
    assert re.search(r"^2 +20 +2 +200\.0", out, re.MULTILINE) and f"written: {output}\n" in out
    assert [len(point["trials"]) for point in json.loads(output.read_text())["points"]] == [2, 2]
    assert (tmp_path / "here" / "report.md").exists() and (tmp_path / "here" / "best.yaml").exists()
    swept(tmp_path / "here", measured, *argv)
    assert len(measured.runs) == 4, "what was measured is not measured again"


def test_where_no_point_can_be_measured(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no point could be measured; the first: no room"):
        swept(tmp_path / "here", Measured(lambda point: TgiError("no room")), "max_waiting_tokens=5,20")


def test_what_cannot_be_had_is_no_reason_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = swept(tmp_path / "here", Measured(), "objective=throughput", "request_rate=null,-1,2")
    assert [point.settings for point in sweep.points] == [{"request_rate": "null"}, {"request_rate": "2"}]
    assert "request_rate=-1: " in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "here" / "report.md").mkdir(parents=True)
    assert len(swept(tmp_path / "here", Measured(), "max_waiting_tokens=5,20").trials) == 2
    assert "Warning: the report could not be written" in capsys.readouterr().err


def test_a_stop_says_how_to_go_on(tmp_path: Path) -> None:
    stop = StopSignals()

    def stopped(point: Point) -> Any:
        if point.number == 1:
            return summary()
        stop.request()
        return BenchError("stopped before everything was measured")

    with pytest.raises(BenchError, match="the same command goes on"):
        swept(tmp_path / "here", Measured(stopped), "max_waiting_tokens=5,20", within=context(stop))
    assert len(Sweep.read(tmp_path / "here").trials) == 1


def test_a_job_that_measures_nothing(tmp_path: Path) -> None:
    arguments = cli.parse(["-m", "hydra/sweeper=basic", "job=serve", "max_waiting_tokens=5,20"], {})
    with pytest.raises(UsageError, match="need a job that measures"):
        plugins.run(arguments, context(), main._task)
