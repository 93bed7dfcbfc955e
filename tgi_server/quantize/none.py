"""Weights as they are: one matrix in the serving dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgi_server.errors import ConfigError
from tgi_server.quantize.base import PLAIN, WHOLE, Cut, Reader, Stored
from tgi_server.quantize.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format


@dataclass
class NoQuantize:
    """Plain matrices."""

    weight_bytes = 2.0

    def reader(self, settings: Settings | None) -> Reader:
        """Itself; see `QuantizeMethod`."""
        if settings is not None:
            raise ConfigError(f"the checkpoint is quantised ({settings.place}); leave quantize out")
        return self

    @classmethod
    def reads(cls, settings: Settings) -> bool:
        """See `QuantizeMethod`."""
        return False

    def stored(self) -> Mapping[str, Stored]:
        """One tensor, `weight`."""
        return PLAIN

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        """The matrix itself."""
        from tgi_server.kernels.formats import Dense

        return Dense(tensors["weight"])
