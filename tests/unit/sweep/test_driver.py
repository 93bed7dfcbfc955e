"""What is measured in which order, what failures and stops do, and what a second start does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.unit.sweep.stages import Measured, context, measuring, numbers, stage_of, summary, tasks
from tests.unit.sweep.test_journal import small_files
from tgi_server.bench.http import BenchError
from tgi_server.bench.summary import Summary
from tgi_server.errors import ConfigError, TgiError, UsageError
from tgi_server.jobs.base import Context
from tgi_server.launcher.supervise import StoppedError, StopSignals
from tgi_server.sweep import main
from tgi_server.sweep.points import Point
from tgi_server.sweep.record import Sweep

POINTS = ("max_waiting_tokens=5,20", "max_batch_size=3,4")


class DeadError(TgiError):
    last_words = "Traceback\nMemoryError"


def go(directory: Path, measured: Measured, repeats: int = 1, within: Context | None = None) -> Sweep:
    """Sweep, and tell what the record has then."""
    with measuring(measured):
        main.run(tasks(*POINTS, record=str(directory), repeats=repeats), within or context(), nothing)
    return Sweep.read(directory)


def nothing(directory: Path, sweep: Sweep) -> Sequence[Path]:
    return ()


def failing(*numbers: int, error: Exception | None = None) -> Callable[[Point], Summary | Exception]:
    problem = error or DeadError("shard 0 was ended by signal 9")
    return lambda point: problem if point.number in numbers else summary(100.0 * point.number)


def test_all_points_are_measured_in_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = Measured()
    sweep = go(tmp_path, measured, 2)
    assert numbers(measured.runs) == [1, 2, 3, 4, 4, 3, 2, 1]
    assert len({run for _, run in measured.runs}) == 8
    assert [(trial.point, trial.repeat) for trial in sweep.trials] == [
        (1, 1), (2, 1), (3, 1), (4, 1), (4, 2), (3, 2), (2, 2), (1, 2),
    ]  # fmt: skip
    out, err = capsys.readouterr()
    head, *rows = out.splitlines()
    assert head.split()[:4] == ["max_waiting_tokens", "max_batch_size", "times", "tokens/s"]
    assert [row.split()[:6] for row in rows[:4]] == [
        ["1", "5", "3", "2", "100.0", "+-0.0"], ["2", "5", "4", "2", "200.0", "+-0.0"],
        ["3", "20", "3", "2", "300.0", "+-0.0"], ["4", "20", "4", "2", "400.0", "+-0.0"],
    ]  # fmt: skip
    assert "8 of 8 measured: max_waiting_tokens=5 max_batch_size=3, repeat 2: tokens/s 100.0" in err


def test_logs_of_servers_go_to_a_file_a_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    within = context()
    go(tmp_path, Measured(), within=within)
    files = [tmp_path / "points" / f"0{number}.log" for number in (1, 2, 3, 4)]
    assert stage_of(within).logs == files
    assert [file.read_text() for file in files] == ["the server says something\n"] * 4
    assert "the server says something" not in "".join(capsys.readouterr())


def test_a_failing_point_is_a_row_and_tried_again_by_the_next_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = go(tmp_path, Measured(failing(2)))
    assert [trial.point for trial in sweep.trials] == [1, 2, 3, 4]
    failed = sweep.failed(2)
    assert failed is not None and failed.error == "shard 0 was ended by signal 9"
    assert list(failed.last_words) == ["Traceback", "MemoryError"]
    out = capsys.readouterr().out
    assert out.splitlines()[2].split()[:4] == ["2", "5", "4", "0"]
    assert out.splitlines()[2].endswith("  shard 0 was ended by signal 9")
    again = Measured()
    sweep = go(tmp_path, again)
    assert numbers(again.runs) == [2]
    assert sweep.failed(2) is None and len(sweep.good(2)) == 1
    assert numbers(go_on(tmp_path).runs) == []


def go_on(directory: Path, repeats: int = 1) -> Measured:
    measured = Measured()
    go(directory, measured, repeats)
    return measured


@pytest.mark.parametrize(
    "error",
    [UsageError("max_batch_size=4: no"), BenchError("all failed"), ConfigError("no"), ConnectionResetError("x")],
)
def test_whatever_a_user_can_meet_is_a_row(tmp_path: Path, error: Exception) -> None:
    sweep = go(tmp_path, Measured(failing(2, 4, error=error)))
    assert [trial.error for trial in sweep.trials] == [None, str(error), None, str(error)]


def test_a_defect_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        go(tmp_path, Measured(failing(2, error=ZeroDivisionError())))
    assert len(Sweep.read(tmp_path).trials) == 1


def test_a_point_that_fails_twice_is_left_alone(tmp_path: Path) -> None:
    measured = Measured(failing(2))
    go(tmp_path, measured, 4)
    assert numbers(measured.runs).count(2) == 2
    assert [numbers(measured.runs).count(number) for number in (1, 3, 4)] == [4, 4, 4]


def test_a_point_that_failed_once_in_between_is_repeated_all_the_same(tmp_path: Path) -> None:
    measured = Measured()
    measured.of = lambda point: DeadError("x") if point.number == 2 and len(measured.runs) < 4 else summary()
    sweep = go(tmp_path, measured, 3)
    assert (numbers(measured.runs).count(2), len(sweep.good(2))) == (3, 2)
    assert numbers(go_on(tmp_path, 3).runs) == [2]


def test_when_every_point_fails_so_does_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no point could be measured; the first: shard 0 was ended by signal 9"):
        go(tmp_path, Measured(failing(1, 2, 3, 4)))
    assert len(Sweep.read(tmp_path).trials) == 4


@pytest.mark.parametrize("error", [StoppedError(), BenchError("stopped"), DeadError("x")])
def test_a_stop_ends_it_and_the_same_command_goes_on(
    tmp_path: Path, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    stop, measured = StopSignals(), Measured()

    def of(point: Point) -> Summary | Exception:
        if len(measured.runs) < 3:
            return summary()
        stop.request()
        return error

    measured.of = of
    with pytest.raises(BenchError, match="stopped; the same command goes on with 2 of 8 measured"):
        go(tmp_path, measured, 2, within=context(stop))
    assert len(capsys.readouterr().out.splitlines()) == 6  # what there is so far
    assert numbers(go_on(tmp_path, 2).runs) == [3, 4, 4, 3, 2, 1]


def test_a_stop_right_after_a_measurement_loses_nothing(tmp_path: Path) -> None:
    stop = StopSignals()

    def of(point: Point) -> Summary:
        stop.request()
        return summary()

    with pytest.raises(BenchError, match="1 of 4 measured"):
        go(tmp_path, Measured(of), within=context(stop))
    assert numbers(go_on(tmp_path).runs) == [2, 3, 4]


def test_more_repeats_go_on_with_what_is_there(tmp_path: Path) -> None:
    go(tmp_path, Measured())
    assert numbers(go_on(tmp_path, 2).runs) == [4, 3, 2, 1]


def test_a_full_disk_ends_it_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = Measured()

    def of(point: Point) -> Summary:
        if len(measured.runs) == 3:
            limit.__enter__()
        return summary()

    measured.of = of
    limit = small_files(0)
    try:
        with pytest.raises(ConfigError, match=r"cannot be written \(File .*\); the same .* with 2 of 4 measured"):
            go(tmp_path, measured)
    finally:
        limit.__exit__(None, None, None)
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert len(Sweep.read(tmp_path).trials) == 2
    assert numbers(go_on(tmp_path).runs) == [3, 4]


def test_the_report_is_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Sweep] = []

    def report(directory: Path, sweep: Sweep) -> Sequence[Path]:
        told.append(sweep)
        return [directory / "report.html"]

    with measuring(Measured()):
        main.run(tasks(*POINTS, record=str(tmp_path), output=f"{tmp_path}/a.json"), context(), report)
    assert told == [Sweep.read(tmp_path)]
    assert capsys.readouterr().out.endswith(f"written: {tmp_path}/a.json\nwritten: {tmp_path}/report.html\n")
    found = json.loads((tmp_path / "a.json").read_text())
    assert [point["trials"][0]["summary"]["tokens_per_second"] for point in found["points"]] == [100, 200, 300, 400]


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def report(directory: Path, sweep: Sweep) -> Sequence[Path]:
        raise OSError(28, "No space left on device")

    with measuring(Measured()):
        main.run(tasks(*POINTS, record=str(tmp_path)), context(), report)
    assert "Warning: the report could not be written" in capsys.readouterr().err


def test_mistakes_are_told_before_anything_starts(tmp_path: Path) -> None:
    measured = Measured()
    for words in (["repeats=1,2"], [f"record={tmp_path}/a,{tmp_path}/b"], ["clients=0,1"], ["port=0,4000"]):
        with measuring(measured), pytest.raises(UsageError):
            main.run(tasks(*words), context(), nothing)
    assert (measured.runs, list(tmp_path.iterdir())) == ([], [])
