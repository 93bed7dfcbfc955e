"""`job=simulate`: what the configured server would do under a load, from what its steps cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tgi_server.config.schema import ServerConfig
from tgi_server.jobs.base import Context, Task
from tgi_server.simulate.options import SimulateOptions


@dataclass
class Simulate(SimulateOptions):
    """What a simulated load asks of the server.

    See `tgi_server.jobs.base.Job`.
    """

    endless: ClassVar[bool] = False

    @property
    def starts_server(self) -> bool:
        """Whether it has to be measured what steps cost."""
        return not self.known

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Raise UsageError for what cannot be simulated, or an option that cannot be read or has no effect."""
        from tgi_server.simulate import main

        main.check(self, config)

    @classmethod
    def perform(cls, tasks: Sequence[Task], context: Context) -> None:
        """Simulate and print the table; logs go to standard error.

        Raises:
            UsageError: see `check`.
            ConfigError, ModelError: costs that cannot be read, or of another model or other options.
        """
        from tgi_server.simulate import main

        main.run(tasks, context)
