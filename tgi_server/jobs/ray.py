"""`job=ray`: several of the configured server behind one address, on Ray Serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tgi_server.config.schema import ServerConfig
from tgi_server.jobs.base import Context, Task
from tgi_server.replicas.options import RayOptions


@dataclass
class Ray(RayOptions):
    """What runs replicas of the server on Ray Serve, until it is told to stop.

    See `tgi_server.jobs.base.Job`.
    """

    endless: ClassVar[bool] = True
    starts_server: ClassVar[bool] = False

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Raise UsageError or ConfigError where options cannot go together, ConfigError where Ray is not installed."""
        from tgi_server.replicas import start

        start.check(self, config, origins)

    @classmethod
    def perform(cls, tasks: Sequence[Task], context: Context) -> None:
        """Run them; see `replicas.start.run`."""
        from tgi_server.replicas import start

        for task in tasks:
            start.run(task.job, task, context.stop)
