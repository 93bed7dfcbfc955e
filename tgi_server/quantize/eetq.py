"""8-bit weights, one scale an output, made from any float checkpoint while it loads; activations stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tgi_server.quantize.base import LinearOp


FEW_ROWS = 24
"""Up to this many rows torch's 8-bit product reads the weights as they are; for more they are widened first."""


@dataclass
class Eetq:
    """Round to nearest on 255 steps from minus to plus the largest weight of each output.

    A whole number up to 127 is exact in every float type, so the products are those of the rounded weights; the scale
    is applied to the sums, in float32.
    """

    def layout(self) -> Mapping[str, tuple[str, ...]]:
        """The checkpoint's own `weight`."""
        return {"weight": ("out", "in")}

    def build(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> LinearOp:
        """Quantise `weight [out, in]`, keep int8 and a float32 scale `[out]`."""
        import torch
        from torch.nn.functional import linear

        weight = tensors["weight"].float()
        scale = (weight.abs().amax(dim=1) / 127).clamp_min_(torch.finfo(torch.float32).tiny)
        steps = (weight / scale.unsqueeze(1)).round_().to(torch.int8)
        units = torch.ones(len(scale), dtype=tensors["weight"].dtype, device=weight.device)

        def apply(x: Tensor) -> Tensor:
            if x.is_cpu and x.shape[0] <= FEW_ROWS:
                sums = torch._weight_int8pack_mm(x, steps, units)
            else:
                sums = linear(x, steps.to(x.dtype))
            scaled = sums * scale if bias is None else torch.addcmul(bias.float(), sums.float(), scale)
            return scaled.to(x.dtype)

        return apply

    def unsupported(self, device: torch.device, dtype: torch.dtype) -> list[str]:
        """Runs everywhere."""
        return []
