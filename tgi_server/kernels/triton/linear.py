"""Linear layers by the format of their weights."""

from __future__ import annotations

import torch
from torch import Tensor

from tgi_server.kernels.formats import Format, Grouped, Int8, Int8Outlier
from tgi_server.kernels.plain import LinearOp
from tgi_server.kernels.triton.grouped import GroupedLinear
from tgi_server.kernels.triton.int8 import int8_linear
from tgi_server.kernels.triton.outliers import outlier_linear


def linear(weight: Format, bias: Tensor | None, dtype: torch.dtype) -> LinearOp:
    """The operation `linear`, of weights that are not dense."""
    if isinstance(weight, Grouped):
        return GroupedLinear(weight, bias, dtype)
    if isinstance(weight, Int8Outlier):
        return outlier_linear(weight, bias)
    assert isinstance(weight, Int8)
    return lambda x: int8_linear(x, weight.steps, weight.scale, bias)
