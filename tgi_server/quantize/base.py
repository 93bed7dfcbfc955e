"""What a quantisation method owes the loader: which tensors a linear layer stores, and how to build the layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class LinearOp(Protocol):
    """A linear layer ready to run.

    Attributes:
        recordable: True when it may be recorded and run again with other data at the same addresses (shard/graphs.py).
    """

    recordable: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Map `[rows, in]` to `[rows, out]`."""
        ...


class QuantizeMethod(Protocol):
    """A way to store and multiply the weights of a linear layer."""

    def layout(self) -> Mapping[str, tuple[str, ...]]:
        """Tensor suffix -> what each axis runs over, `out` or `in`. The loader slices and joins along these."""
        ...

    def build(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> LinearOp:
        """The layer of this rank's `tensors` (keys of `layout`), already sliced and joined."""
        ...

    def unsupported(self, device: torch.device, dtype: torch.dtype) -> list[str]:
        """Reasons why the method cannot run with activations of `dtype` on `device`; empty when it can."""
        ...
