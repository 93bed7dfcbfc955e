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
        """A matrix product with an optional bias `[out]`; on CPUs oneDNN keeps the weight in its own blocked order."""
        from functools import partial

        import torch

        weight = tensors["weight"]
        if weight.is_cpu and _onednn_multiplies(weight.dtype):
            return _packed(weight, bias)
        return partial(torch.nn.functional.linear, weight=weight, bias=bias)

    def unsupported(self, device: torch.device, dtype: torch.dtype) -> list[str]:
        """Runs everywhere."""
        return []


def _onednn_multiplies(dtype: torch.dtype) -> bool:
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(weight: Tensor, bias: Tensor | None) -> LinearOp:
    """oneDNN's linear on a weight reordered once instead of at every call (torch's own fused-linear operator)."""
    import torch

    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def apply(x: Tensor) -> Tensor:
        product: Tensor = multiply(x, packed, bias, "none", [], "")
        return product

    return apply
