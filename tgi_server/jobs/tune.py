"""`job=tune`: find the configuration that serves a traffic best within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tgi_server.config.schema import ServerConfig
from tgi_server.jobs.base import Context, Task
from tgi_server.tune.options import TuneOptions


@dataclass
class Tune(TuneOptions):
    """What looks for the best configuration.

    See `tgi_server.jobs.base.Job`.
    """

    endless: ClassVar[bool] = False
    starts_server: ClassVar[bool] = True

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Raise UsageError where options cannot go together or have no effect, ConfigError for a file of keys."""
        from tgi_server.tune import main

        main.check(self, config, origins)

    @classmethod
    def perform(cls, tasks: Sequence[Task], context: Context) -> None:
        """Search among what clients do not notice or, with --multirun, among the combinations; see `tune.main.run`."""
        from tgi_server.tune import main

        main.run(tasks, context)
