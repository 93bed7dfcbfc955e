"""A bar on terminals, few log lines elsewhere."""

from __future__ import annotations

import io
import logging

import pytest

from tgi_server.launcher.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar() -> None:
    terminal = Terminal()
    progress = Progress(True, terminal)
    progress.report("Converting", 0.0)
    progress.report("Converting", 0.5)
    progress.report("Saving", 1.0)
    progress.finish()
    lines = [line.split("\r")[-1] for line in terminal.getvalue().rstrip().split("\n")]
    assert lines == ["Converting [" + "#" * 15 + " " * 15 + "]  50 %", "Saving [" + "#" * 30 + "] 100 %"]


@pytest.mark.parametrize(("bar", "stream"), [(True, io.StringIO()), (False, Terminal())])
def test_log_lines(bar: bool, stream: io.StringIO, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tgi_server")
    progress = Progress(bar, stream)
    for step in range(101):
        progress.report("Downloading", step / 100)
    progress.report("Downloading", 1.0)
    progress.finish()
    assert caplog.messages == ["Downloading: 0 %", "Downloading: 100 %"]
    assert stream.getvalue() == ""


def test_nothing_to_finish() -> None:
    terminal = Terminal()
    Progress(True, terminal).finish()
    assert terminal.getvalue() == ""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_numbered_stages_are_one_and_tell_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tgi_server")
    clock = Clock()
    progress = Progress(False, io.StringIO(), clock)
    for layer in range(1, 5):
        progress.report(f"Layer {layer} of 4", (layer - 1) / 4)
        clock.now += 90
    progress.report("Layer 4 of 4", 1.0)
    assert caplog.messages == [
        "Layer 1 of 4: 0 %", "Layer 2 of 4: 25 %, 5 min left", "Layer 3 of 4: 50 %, 3 min left",
        "Layer 4 of 4: 75 %, 2 min left", "Layer 4 of 4: 100 %",
    ]  # fmt: skip


def test_the_time_left_counts_from_where_the_work_went_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tgi_server")
    clock = Clock()
    progress = Progress(False, io.StringIO(), clock)
    progress.report("Layer 4 of 5", 0.6)
    clock.now += 20
    progress.report("Layer 5 of 5", 0.8)
    assert caplog.messages[-1] == "Layer 5 of 5: 80 %, 20 s left"


def test_numbered_stages_are_one_line_on_a_terminal_unless_they_begin_anew() -> None:
    clock, terminal = Clock(), Terminal()
    progress = Progress(True, terminal, clock)
    for stage, fraction in (("Layer 1 of 2", 0.0), ("Layer 2 of 2", 0.5), ("File 1 of 2", 0.9), ("File 2 of 2", 0.1)):
        progress.report(stage, fraction)
        clock.now += 60
    progress.finish()
    lines = [line.split("\r")[-1].rstrip() for line in terminal.getvalue().rstrip().split("\n")]
    assert [line.partition(" [")[0] for line in lines] == ["Layer 2 of 2", "File 1 of 2", "File 2 of 2"]
    assert lines[0].endswith("]  50 %, 1 min left")


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (61, "2 min"), (3600, "1 h 00 min"), (7500, "2 h 05 min")])
def test_durations(seconds: int, words: str) -> None:
    assert duration(seconds) == words
