"""8-bit weights, one scale an output, made from any float checkpoint while it loads; activations stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tgi_server.quantize.base import LinearOp


@dataclass
class Eetq:
    """Round to nearest on 255 steps from minus to plus the largest weight of each output.

    A whole number up to 127 is exact in every float type, so the products are those of the rounded weights; the
    kernels apply the scale to the sums, in float32.
    """

    def layout(self) -> Mapping[str, tuple[str, ...]]:
        """The checkpoint's own `weight`."""
        return {"weight": ("out", "in")}

    def build(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> LinearOp:
        """Quantise `weight [out, in]`, keep int8 and a float32 scale `[out]`."""
        import torch

        from tgi_server.native.linear import NativeLinear, why_not
        from tgi_server.triton import support

        dtype, weight = tensors["weight"].dtype, tensors["weight"].float()
        scale = (weight.abs().amax(dim=1) / 127).clamp_min_(torch.finfo(torch.float32).tiny)
        steps = (weight / scale.unsqueeze(1)).round_().to(torch.int8)
        if not why_not(dtype, steps):
            return NativeLinear(steps, dtype, scale, bias)
        if not support.unsupported(weight.device, dtype):
            return TritonInt8Linear(steps, scale, bias)
        return WideningLinear(steps, scale, bias)

    def unsupported(self, device: torch.device, dtype: torch.dtype) -> list[str]:
        """Runs everywhere."""
        return []


class TritonInt8Linear:
    """8-bit weights multiplied as they are, by the Triton kernels."""

    recordable = True

    def __init__(self, steps: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self._steps = steps
        self._scale = scale
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """`[rows, in]` to `[rows, out]`."""
        from tgi_server.triton.linear import int8_linear  # imports triton, which is not everywhere

        return int8_linear(x, self._steps, self._scale, self._bias)


class WideningLinear:
    """8-bit weights widened at every call, in the inputs' dtype: where nothing multiplies them as they are."""

    recordable = False

    def __init__(self, steps: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self._steps = steps
        self._scale = scale
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """`[rows, in]` to `[rows, out]`."""
        from torch.nn.functional import linear

        weight = (self._steps * self._scale.unsqueeze(1)).to(x.dtype)  # with its scale: float16 holds sums up to 65504
        return linear(x, weight, self._bias)
