"""Weights as they are: one matrix in the serving dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgi_server.quantize.base import PLAIN, Stored

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format


@dataclass
class NoQuantize:
    """Plain matrices."""

    def stored(self) -> Mapping[str, Stored]:
        """One tensor, `weight`."""
        return PLAIN

    def read(self, tensors: Mapping[str, Tensor]) -> Format:
        """The matrix itself."""
        from tgi_server.kernels.formats import Dense

        return Dense(tensors["weight"])
