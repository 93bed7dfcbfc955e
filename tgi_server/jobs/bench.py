"""`job=bench`: measure the configured server, or any other with the OpenAI interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from tgi_server.config.schema import ServerConfig
from tgi_server.errors import UsageError
from tgi_server.jobs.base import Context, Task
from tgi_server.sweep.objective import Objective
from tgi_server.sweep.options import SweepOptions

if TYPE_CHECKING:
    from tgi_server.sweep.predictions import Foresee


@dataclass
class Bench(SweepOptions):
    """What the load generator asks of a server.

    See `tgi_server.jobs.base.Job`.
    """

    endless: ClassVar[bool] = False

    @property
    def starts_server(self) -> bool:
        """Whether the configured server is measured, which is started for it."""
        return self.target is None

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Raise UsageError where an option cannot be read or has no effect, ConfigError for a file of keys."""
        from tgi_server.bench import main

        main.check(self, config, origins)
        if self.objective is Objective.goodput:
            raise UsageError("objective=goodput: is for job=tune, which has limits")

    @classmethod
    def perform(cls, tasks: Sequence[Task], context: Context) -> None:
        """Measure and print the table; logs go to standard error. More than one measurement is a sweep, see there.

        Raises:
            UsageError: an option cannot be read or has no effect.
            BenchError: nothing could be measured.
        """
        from tgi_server.bench import main
        from tgi_server.report import page
        from tgi_server.sweep import main as sweep

        first: Bench = tasks[0].job
        if len(tasks) == 1 and first.repeats == 1 and first.record is None:
            first.refuse_of_sweeps()
            main.run(tasks[0], context)
        else:
            sweep.run(tasks, context, partial(page.write, objective=first.objective), first.foresee(context))

    def foresee(self, context: Context) -> Foresee | None:
        """How to know what to expect of the points of a sweep; None where nothing is expected."""
        from tgi_server.sweep.simulated import foresight

        return partial(foresight, context.stage, context.stop) if self.simulate and self.starts_server else None
