"""A linear layer over the compiled product."""

from __future__ import annotations

import torch
from torch import Tensor

from tgi_server.native import kernels


class NativeLinear:
    """`x @ weight.T * scale + bias`.

    Args:
        weight: `[out, in]`, float32 or bfloat16 like the inputs, or int8; kept in another order.
        dtype: of the inputs.
        scale, bias: float32 `[out]`, or none.
        result: dtype of the outputs; that of the inputs, or float32.
    """

    recordable = True

    def __init__(
        self, weight: Tensor, dtype: torch.dtype, scale: Tensor | None = None, bias: Tensor | None = None,
        result: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self._packed = kernels.pack(weight, dtype)
        self._outer = weight.shape[0]
        self._scale = scale
        self._bias = None if bias is None else bias.float()
        self._result = result or dtype

    def __call__(self, x: Tensor) -> Tensor:
        """`[rows, in]` to `[rows, out]`."""
        return kernels.linear(x, self._packed, self._outer, self._scale, self._bias, self._result)


def why_not(dtype: torch.dtype, weight: Tensor) -> list[str]:
    """Reasons against a NativeLinear of `weight [out, in]` for inputs of `dtype`; empty when it is the best choice."""
    reasons = list(kernels.linear_unsupported(weight.device, dtype, weight.dtype))
    if not reasons and weight.shape[1] % kernels.per_unit(dtype):
        reasons.append(f"an odd number of inputs ({weight.shape[1]})")
    return reasons
