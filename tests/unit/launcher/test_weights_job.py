"""Work in a child process: progress, results, failures, and that nothing survives."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import tgi_server
from tgi_server.errors import ModelError
from tgi_server.launcher import job

WORK = """
import os, signal, subprocess, sys, time
from tgi_server.errors import ModelError
from tgi_server.launcher import job

def work(report):
    report("Working", 0.5)
    print("chatter of a library")
    {body}

job.perform(work)
"""

Run = Callable[..., tuple[str, list[tuple[str, float]]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the body of a work function in a child and returns its result and the progress seen."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(tgi_server.__file__).parents[1]}:{tmp_path}")
    seen: list[tuple[str, float]] = []

    def call(
        body: str, report: job.Report = lambda *progress: seen.append(progress)
    ) -> tuple[str, list[tuple[str, float]]]:
        (tmp_path / "some_work.py").write_text(WORK.format(body=body))
        return job.run("some_work", report=report), list(seen)

    return call


def test_result_and_progress_come_back(run: Run) -> None:
    result, seen = run("time.sleep(0.5); return 'the result'")
    assert result == "the result"
    assert ("Working", 0.5) in seen


def test_what_a_library_writes_between_the_lines_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    result, _ = run("os.write(1, b'chatter \\xff\\n7\\n[1, 2]\\n'); return 'the result'")
    assert result == "the result" and caplog.messages == ["chatter \ufffd", "7", "[1, 2]"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ModelError('no such thing')", "^no such thing$"),
        ("open('/nowhere/file')", "^/nowhere/file: No such file or directory$"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL$"),
        ("os._exit(3)", "ended without a word, with exit status 3$"),
    ],
)
def test_failures_are_one_line(run: Run, body: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run(body)


def test_a_defect_is_not_dressed_up(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="exit code 1"):
        run("raise KeyError('bug')")
    assert "KeyError: 'bug'" in capfd.readouterr().err


class CancelledError(Exception):
    pass


@pytest.mark.alone
def test_a_report_that_raises_ends_the_work_and_lets_it_clean_up(run: Run, tmp_path: Path) -> None:
    def cancel(stage: str, fraction: float) -> None:
        raise CancelledError

    mark = tmp_path / "cleaned"
    before = psutil.Process().children()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        run(
            f"""
    try:
        time.sleep(60)
    finally:
        open({str(mark)!r}, 'w').close()""",
            cancel,
        )
    assert time.monotonic() - started < 2
    assert mark.exists()
    assert psutil.Process().children() == before


def test_the_work_ends_when_its_launcher_is_killed(run: Run, tmp_path: Path) -> None:
    """Here the child of this test plays the launcher, and is killed while a grandchild works."""
    (tmp_path / "sleeper.py").write_text(WORK.format(body="time.sleep(60)"))
    found: list[psutil.Process] = []
    before = psutil.Process().children()

    def kill_launcher(stage: str, fraction: float) -> None:
        (launcher,) = set(psutil.Process().children()) - set(before)
        found.extend(launcher.children())
        if found:
            launcher.send_signal(signal.SIGKILL)

    with pytest.raises(ModelError, match="SIGKILL"):
        run("job.run('sleeper', report=report)", kill_launcher)
    assert found
    deadline = time.monotonic() + 3
    while any(works(process) for process in found):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def works(process: psutil.Process) -> bool:
    """False also for a zombie: in a container nobody may collect it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_a_child_logs_is_logged_here(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run(
        "import logging, warnings; logging.getLogger('tgi_server.x').info('told %s', 1); warnings.warn('careful');"
        " logging.getLogger('library').info('chatter'); logging.getLogger('library').error('trouble'); return ''"
    )
    told = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert ("tgi_server.x", "INFO", "told 1") in told and ("library", "ERROR", "trouble") in told
    assert any(name == "py.warnings" and "careful" in message for name, _, message in told)
    assert ("library", "INFO", "chatter") not in told
