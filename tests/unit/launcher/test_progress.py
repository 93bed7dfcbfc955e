"""A bar on terminals, few log lines elsewhere."""

from __future__ import annotations

import io
import logging

import pytest

from tgi_server.launcher.progress import Progress


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
