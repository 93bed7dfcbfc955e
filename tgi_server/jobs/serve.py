"""`job=serve`: the configured server, until it is told to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tgi_server.config.schema import ServerConfig
from tgi_server.jobs.base import Context, Task


@dataclass
class Serve:
    """What runs the configured server, until it is told to stop.

    See `tgi_server.jobs.base.Job`.
    """

    endless: ClassVar[bool] = True
    starts_server: ClassVar[bool] = True

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Nothing beside the server's own options."""

    @classmethod
    def perform(cls, tasks: Sequence[Task], context: Context) -> None:
        """Nothing but serve."""
        for task in tasks:
            context.stage.serve(task.run)
