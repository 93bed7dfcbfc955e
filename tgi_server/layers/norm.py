"""Root mean square normalisation (arXiv:1910.07467) on the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import rms_norm


class RMSNorm:
    """Adds a layer's output to the residual stream and normalises the sum.

    The residual stream is float32 whatever the serving dtype: sums over many layers lose too much in bfloat16.
    """

    def __init__(self, weight: Tensor, eps: float, dtype: torch.dtype) -> None:
        self.weight = weight
        self.eps = eps
        self.dtype = dtype

    def __call__(self, residual: Tensor, x: Tensor | None = None) -> Tensor:
        """Add `x [tokens, hidden]` to `residual` in place and return the normalised sum in the serving dtype."""
        if x is not None:
            residual += x
        return rms_norm(residual, self.weight.shape, self.weight, self.eps).to(self.dtype)
