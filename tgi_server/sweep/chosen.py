"""Points that somebody else chooses one after the other, as sweepers of Hydra's do; each has a number at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from tgi_server.errors import UsageError
from tgi_server.jobs.base import Context, Task
from tgi_server.sweep import identity
from tgi_server.sweep.driver import Driver
from tgi_server.sweep.journal import Identity, Journal
from tgi_server.sweep.objective import score
from tgi_server.sweep.order import Turn
from tgi_server.sweep.points import Point, points_of
from tgi_server.sweep.predictions import Foresee
from tgi_server.sweep.record import Sweep
from tgi_server.sweep.screen import Lines


class Chosen:
    """Measures points as they come, and keeps them in a record; a context manager that closes it.

    What the same chooser has asked for before is not measured again.

    Args:
        base: what all points have in common.
        choice: who chooses among what, as it was written.
        directory: of the record; a name made of all that when None.
        foresee: how to know what to expect of the points; None: nothing is expected.
    """

    def __init__(
        self, base: Task, choice: Sequence[str], context: Context, directory: Path | None, foresee: Foresee | None
    ) -> None:
        base.job.check(base.run.config, base.run.origins)
        (first, *more) = points_of([base])
        if more:
            raise UsageError("clients: one number at each point")
        own = _identity(identity.identify([first], context.command), choice)
        self.directory = directory or identity.directory([first], own.marks)
        self._context = context
        self._foresight = foresee and foresee(self.directory)
        self._journal = Journal(self.directory, own)

    def __enter__(self) -> Chosen:
        return self

    def __exit__(self, *exception: object) -> None:
        self._journal.__exit__(*exception)

    @property
    def sweep(self) -> Sweep:
        """All that was measured."""
        return self._journal.sweep

    def loss(self, task: Task, settings: Mapping[str, str]) -> float:
        """Less is better, the sweepers' default; infinite where nothing could be measured.

        Args:
            settings: what was chosen.

        Raises:
            StoppedSweepError, ConfigError: see `Driver.go`.
            UsageError: an option cannot be read or has no effect.
        """
        task.job.check(task.run.config, task.run.origins)
        point = self._point(task, settings)
        turns = [Turn(point, repeat) for repeat in range(1, task.job.repeats + 1)]
        done = sum(trial.summary is not None for trial in self.sweep.trials)
        Driver(
            self.directory, self._journal, turns, self._context, Lines(done, done + len(turns)), self._foresight
        ).go()
        good = self.sweep.good(point.number)
        return -mean(score(task.job.objective, each) for each in good) if good else math.inf

    def _point(self, task: Task, settings: Mapping[str, str]) -> Point:
        known = {each.number: each.settings for each in self.sweep.points}
        number = next((number for number, its in known.items() if its == settings), None)
        (point,) = points_of([task])
        point = replace(point, number=number or len(known) + 1, settings=settings)
        if number is None:
            self._journal.add_point(point.described())
        return point


def _identity(first: Identity, choice: Sequence[str]) -> Identity:
    """That of a sweep whose points are not known yet."""
    marks = {name: value for name, value in first.marks.items() if name != "points"}
    return replace(first, marks={**marks, "chosen": " ".join(choice)}, points=[])
