"""`job=quantize`: make a checkpoint with few bits a weight of the configured model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.compress.options import QuantizeOptions

if TYPE_CHECKING:
    from tgi_server.config.schema import ServerConfig
    from tgi_server.launcher.supervise import StopSignals


@dataclass
class Quantize(QuantizeOptions):
    """What makes a checkpoint with few bits a weight of the model.

    As a job it is run as `tgi_server.launcher.main.Serve` is.
    """

    endless: ClassVar[bool] = False
    starts_server: ClassVar[bool] = False

    def check(self, config: ServerConfig, origins: Mapping[str, str]) -> None:
        """Raise ConfigError for what can be refused without a model."""
        from tgi_server.compress import start

        start.refuse(self, config, origins)

    def run(
        self, config: ServerConfig, origins: Mapping[str, str], serve: Callable[[], None], stop: StopSignals
    ) -> None:
        """Make it, or go on with it; see `compress.start.quantise`."""
        from tgi_server.compress import start  # which only this job needs

        start.quantise(self, config, origins, stop)
