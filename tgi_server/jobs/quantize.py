"""`job=quantize`: make a checkpoint with few bits a weight of the configured model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tgi_server.compress.options import QuantizeOptions
from tgi_server.config.schema import ServerConfig
from tgi_server.jobs.base import Context, Task


@dataclass
class Quantize(QuantizeOptions):
    """What makes a checkpoint with few bits a weight of the model.

    See `tgi_server.jobs.base.Job`.
    """

    endless: ClassVar[bool] = False
    starts_server: ClassVar[bool] = False

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Raise ConfigError for what can be refused without a model."""
        from tgi_server.compress import start

        start.refuse(self, config, origins)

    @classmethod
    def perform(cls, tasks: Sequence[Task], context: Context) -> None:
        """Make them, or go on with them; see `compress.start.quantise`."""
        from tgi_server.compress import start  # which only this job needs

        for task in tasks:
            start.quantise(task.job, task.run.config, task.run.origins, context.stop)
