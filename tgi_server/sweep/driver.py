"""Goes through the trials of a sweep, and keeps what comes of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from tgi_server.bench.http import BenchError
from tgi_server.bench.summary import Summary
from tgi_server.errors import ConfigError, TgiError
from tgi_server.jobs.base import Context, Task
from tgi_server.sweep.journal import Journal
from tgi_server.sweep.measuring import measured
from tgi_server.sweep.order import Turn
from tgi_server.sweep.points import Point
from tgi_server.sweep.predictions import Foresight, Predictions
from tgi_server.sweep.record import Trial
from tgi_server.sweep.screen import Screen
from tgi_server.telemetry import logging as log

_ATTEMPTS = 2
"""Failures in one start after which a point of which nothing was measured is left alone."""


class StoppedSweepError(BenchError):
    """The sweep was stopped; the text says how to go on."""


class Driver:
    """One start of a sweep.

    Args:
        directory: of the record; logs are written to `points/` there.
        order: all trials, those included that are done already.
        screen: told what happens.
        foresight: who is asked what to expect of each point; None: nobody.
    """

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        order: Sequence[Turn],
        context: Context,
        screen: Screen,
        foresight: Foresight | None = None,
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._context = context
        self._screen = screen
        self._total = len(order)
        done = {(trial.point, trial.repeat) for trial in journal.sweep.trials if trial.summary is not None}
        self._left = [turn for turn in order if (turn.point.number, turn.repeat) not in done]
        self._failures: dict[int, int] = {}
        points = {turn.point.number: turn.point for turn in order}
        self._predictions = Predictions(foresight, list(points.values()), journal, screen.say)

    def go(self) -> None:
        """Make all trials that are left. A point that fails is no reason to end.

        Raises:
            StoppedSweepError: told to stop.
            ConfigError: the record cannot be written.
        """
        while self._left:
            turn = self._left[0]
            if self._context.stop.requested:
                raise self._stopped()
            if self._failures.get(turn.point.number, 0) < _ATTEMPTS:
                self._predict(turn.point)
                self._screen.begin(turn.point, turn.repeat, self._seconds_left())
                trial = self._trial(turn)
                self._keep(trial)
                self._left.pop(0)
                self._screen.end(turn.point, trial, self._journal.sweep, self._seconds_left())
            else:
                self._left.pop(0)
        with self._telling():
            self._predictions.judge()

    def _predict(self, point: Point) -> None:
        """Ask what to expect, where that is not known. Raises as `go` does."""
        if not self._predictions.wanted(point):
            return
        with self._telling(), logging_to(self._log(point), point.task):
            try:
                self._predictions.of(point)
            except Exception:
                if self._context.stop.requested:
                    raise self._stopped() from None
                raise
        if self._context.stop.requested:
            raise self._stopped()

    def _trial(self, turn: Turn) -> Trial:
        """One trial, also a failed one. Raises StoppedSweepError."""
        with self._telling():
            file = self._log(turn.point)
        began, start = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        summary, error = None, None
        try:
            summary = self._measure(turn.point, file)
        except Exception as problem:
            if self._context.stop.requested:
                raise self._stopped() from None
            if not isinstance(problem, (TgiError, OSError)):
                raise
            error = problem
        seconds = time.monotonic() - start
        words = None if error is None else str(error) or type(error).__name__
        return Trial(turn.point.number, turn.repeat, began, seconds, summary, words, _last_words(error))

    def _measure(self, point: Point, file: Path) -> Summary:
        run = len(self._journal.sweep.trials)  # so that no two have the same prompts

        def work() -> Summary:
            return measured(point, run, self._context.stop, self._screen.watch)

        if point.task.job.target is not None:
            return work()
        with logging_to(file, point.task):
            return self._context.stage.beside(point.task.run, work, file)

    def _log(self, point: Point) -> Path:
        """Where a point's servers log. Raises ConfigError where that is no file."""
        path = self._directory / "points" / f"{point.number:02}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
        except OSError as error:
            raise ConfigError(f"record={self._directory}: cannot be written ({error.strerror})") from None
        return path

    def _keep(self, trial: Trial) -> None:
        """Write it, and count failures."""
        with self._telling():
            self._journal.add_trial(trial)
        if trial.summary is None:
            self._failures[trial.point] = self._failures.get(trial.point, 0) + 1
        else:
            self._failures[trial.point] = -self._total  # it can be measured

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Add to what is said of a record that cannot be written how to go on."""
        try:
            yield
        except StoppedSweepError:
            raise
        except ConfigError as error:
            raise ConfigError(f"{error}; {self._rest()}") from None

    def _seconds_left(self) -> float | None:
        """For all trials that are left: as long as the point's others took, or as others did on average."""
        taken: dict[int, list[float]] = {}
        for trial in self._journal.sweep.trials:
            if trial.summary is not None:
                taken.setdefault(trial.point, []).append(trial.seconds)
        every = [seconds for some in taken.values() for seconds in some]
        if not every:
            return None
        return sum(_mean(taken.get(turn.point.number, every)) for turn in self._left)

    def _stopped(self) -> StoppedSweepError:
        return StoppedSweepError(f"stopped; {self._rest()}")

    def _rest(self) -> str:
        found = self._journal.sweep.trials
        done = len({(trial.point, trial.repeat) for trial in found if trial.summary is not None})
        return f"the same command goes on with {done} of {self._total} measured"


@contextlib.contextmanager
def logging_to(path: Path, task: Task) -> Iterator[None]:
    """Let what is logged about servers end up in a file, as far as it can be written."""
    with _Leaky(path.open("a", encoding="utf-8", errors="backslashreplace")) as file:
        try:
            with contextlib.redirect_stdout(file):
                yield
        finally:
            log.setup(task.run.config, "bench")


class _Leaky(contextlib.AbstractContextManager[TextIO]):
    """A file that may be closed on a full disk."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __enter__(self) -> TextIO:
        return self._file

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _last_words(error: Exception | None) -> Sequence[str]:
    words = getattr(error, "last_words", ())
    return words.splitlines() if isinstance(words, str) else tuple(words)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
