"""Weights as the checkpoint has them: plain matrices, or quantised by the method that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tgi_server.quantize.base import PLAIN, WHOLE, Cut, Reader, Stored
from tgi_server.quantize.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format


@dataclass
class NoQuantize:
    """Plain matrices in the serving dtype, unless the checkpoint is quantised."""

    weight_bytes: ClassVar[float | None] = None

    def reader(self, settings: Settings | None) -> Reader:
        """See `QuantizeMethod`: that of the method which reads such checkpoints. Raises ModelError when none does."""
        if settings is None:
            return self
        from tgi_server.quantize.pick import asked_for  # which knows this file, too

        return asked_for(settings)().reader(settings)

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
