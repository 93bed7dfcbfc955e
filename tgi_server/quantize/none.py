"""Weights as they are: one matrix in the serving dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgi_server import custom_kernels

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
        """A matrix product with an optional bias `[out]`, by what multiplies best where the weight is."""
        from tgi_server.native.linear import NativeLinear, why_not

        weight = tensors["weight"]
        if not why_not(weight.dtype, weight):
            return NativeLinear(weight, weight.dtype, bias=bias)
        if weight.is_cpu and _onednn_multiplies(weight.dtype):
            return OneDnnLinear(weight, bias)
        return TorchLinear(weight, bias)

    def unsupported(self, device: torch.device, dtype: torch.dtype) -> list[str]:
        """Runs everywhere."""
        return []


def _onednn_multiplies(dtype: torch.dtype) -> bool:
    import torch

    if custom_kernels.disabled() or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class OneDnnLinear:
    """oneDNN's linear on a weight reordered once instead of at every call (torch's own fused-linear operator)."""

    recordable = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        import torch

        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        """`[rows, in]` to `[rows, out]`."""
        product: Tensor = self._multiply(x, self._packed, self._bias, "none", [], "")
        return product


class TorchLinear:
    """torch's own product: cuBLAS on GPUs."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.recordable = weight.is_cuda
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """`[rows, in]` to `[rows, out]`."""
        from torch.nn.functional import linear

        return linear(x, self._weight, self._bias)
