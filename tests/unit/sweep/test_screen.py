"""What a sweep shows while it runs."""

from __future__ import annotations

import os
import pty
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.unit.sweep.stages import summary, tasks
from tgi_server.sweep.points import Point, points_of
from tgi_server.sweep.record import Sweep, Trial
from tgi_server.sweep.screen import Lines, Picture, duration

GOOD = Trial(1, 1, "", 4.0, summary(512.0))
BAD = Trial(2, 1, "", 4.0, None, "shard 0\nended \x1b[31mbadly")


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return points_of(tasks("max_waiting_tokens=5,20"))


def sweep(points: Sequence[Point], *trials: Trial) -> Sweep:
    return Sweep({}, [point.described() for point in points], trials)


class Terminal:
    """What a terminal shows that gets some bytes: as much of one as the screen needs."""

    def __init__(self, columns: int) -> None:
        self.lines = [""]
        self.row = self.column = 0
        self._columns = columns

    def feed(self, text: str) -> None:
        for token in re.findall(r"\x1b\[\d*[A-Z]|.|\n|\r", text, re.DOTALL):
            self._take(token)

    def _take(self, token: str) -> None:
        if token == "\r":
            self.column = 0
        elif token == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif token.endswith("A") and len(token) > 1:
            self.row -= int(token[2:-1])
            assert self.row >= 0, "above the top"
        elif token == "\x1b[K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif token == "\x1b[J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1 :]
        else:
            assert token.isprintable(), repr(token)
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + token + line[self.column + 1 :]
            self.column += 1
            assert self.column < self._columns, "wrapped"


@contextmanager
def drawn(points: Sequence[Point], size: tuple[int, int]) -> Iterator[tuple[Picture, list[str]]]:
    """A picture on a pseudo terminal, and what was written to it."""
    master, slave = pty.openpty()
    written: list[str] = []

    def read() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other side is closed
                return
            written.append(data.decode().replace("\r\n", "\n\r"))

    thread = threading.Thread(target=read)
    thread.start()
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        assert stream.isatty()
        picture = Picture(sweep(points), 0, 4, stream, lambda: size)
        try:
            yield picture, written
        finally:
            picture.close()
    thread.join()
    os.close(master)


def until(written: list[str], columns: int, words: str) -> list[str]:
    """The lines on the terminal, once these words are among them."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        terminal = Terminal(columns)
        terminal.feed("".join(written))
        if words in "\n".join(terminal.lines):
            return terminal.lines
        time.sleep(0.02)
    raise AssertionError("".join(written))


def test_a_bar_and_a_table_that_grows(points: list[Point]) -> None:
    with drawn(points, (200, 40)) as (picture, written):
        picture.begin(points[0], 1, 70)
        picture.watch(0.5, 12)
        lines = until(written, 200, "max_waiting_tokens=5, repeat 1: 50 %, 12 requests")
        assert re.fullmatch(r"0 of 4 \[####  +\]  12 %, 2 min left", lines[0])
        assert len(lines) == 6 and lines[5] == ""
        picture.end(points[0], GOOD, sweep(points, GOOD), 9)
        picture.begin(points[1], 1, 9)
        lines = until(written, 200, "512.0")
        assert re.fullmatch(r"1 of 4 \[########  +\]  25 %, [89] s left", lines[0])
        assert lines[3].split()[:4] == ["1", "5", "1", "512.0"]
        picture.end(points[1], BAD, sweep(points, GOOD, BAD), 100)
        lines = until(written, 200, "badly")
        assert lines[4].split()[:3] == ["2", "20", "0"] and lines[4].endswith("shard 0 ended  [31mbadly")
    terminal = Terminal(200)
    terminal.feed("".join(written))
    assert "".join(terminal.lines) == ""  # what is printed at the end takes its place


@pytest.mark.parametrize("size", [(20, 40), (1, 40), (80, 4), (80, 2), (80, 1)])
def test_small_terminals_cut_it(points: list[Point], size: tuple[int, int]) -> None:
    with drawn(points, size) as (picture, written):
        picture.begin(points[1], 1, None)
        picture.watch(0.3, 12)
        lines = until(written, size[0] + 1, "0 of"[: size[0] - 1])
        time.sleep(0.3)
    assert len(lines) <= max(2, size[1])


def test_many_rows_are_shown_around_the_one_that_is_measured(points: list[Point]) -> None:
    many = [replace(points[0], number=n, settings={"max_waiting_tokens": str(n)}) for n in range(1, 31)]
    with drawn(many, (100, 10)) as (picture, written):
        picture.begin(many[14], 1, None)
        lines = until(written, 100, "max_waiting_tokens=15, repeat 1")
        assert len(lines) == 10
        assert [line.split()[0] for line in lines[3:9]] == ["12", "13", "14", "15", "16", "17"]


def test_it_is_drawn_seldom_and_only_when_it_changes(points: list[Point]) -> None:
    with drawn(points, (100, 40)) as (picture, written):
        picture.begin(points[0], 1, None)
        began = time.monotonic()
        while time.monotonic() < began + 1:
            for part in range(1000):
                picture.watch(part / 1000, part)
        pictures = "".join(written).count("0 of 4")
        assert 1 <= pictures <= 5
        picture.watch(0.5, 1)
        until(written, 100, " 50 %, 1 requests")
        quiet = len("".join(written))
        time.sleep(0.6)
        assert len("".join(written)) == quiet


def test_elsewhere_it_is_a_line_a_trial(points: list[Point]) -> None:
    told: list[str] = []
    lines = Lines(1, 4, told.append)
    lines.begin(points[0], 1, None)
    lines.watch(0.5, 3)
    lines.end(points[0], GOOD, sweep(points, GOOD), 9)
    lines.begin(points[1], 1, 104)
    lines.end(points[1], BAD, sweep(points, GOOD, BAD), 100)
    assert told[0].startswith(
        "2 of 4 measured: max_waiting_tokens=5, repeat 1: tokens/s 512.0, requests/s 51.20, first"
    )
    assert told[1].startswith("2 of 4 measured: max_waiting_tokens=20, repeat 1: failed: shard 0")
    assert told[1].endswith("; 2 min left")


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.2, 59, 61, 3600, 7262)] == [
        "0 s",
        "59 s",
        "2 min",
        "1 h 00 min",
        "2 h 02 min",
    ]
