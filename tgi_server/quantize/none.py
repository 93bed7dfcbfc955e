"""Weights as they are: one matrix in the serving dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tgi_server.quantize.base import LinearOp


@dataclass
class NoQuantize:
    """Plain `[out, in]` matrices."""

    def layout(self) -> Mapping[str, tuple[str, ...]]:
        """One tensor, `weight`."""
        return {"weight": ("out", "in")}

    def build(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> LinearOp:
        """A matrix product with an optional bias `[out]`."""
        from functools import partial

        from torch.nn.functional import linear

        return partial(linear, weight=tensors["weight"], bias=bias)

    def unsupported(self, device: torch.device) -> list[str]:
        """Runs everywhere."""
        return []
