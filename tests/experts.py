"""Mixtures of experts in tests of kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.weights import Codes
from tgi_server.kernels.experts import Expert, Mixture
from tgi_server.kernels.formats import Dense, Format, Int8
from tgi_server.kernels.operations import Activation, Clamp

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def mixtures() -> list[Mixture]:
    """Each way to choose and to compute, few experts and many."""
    return [
        Mixture(4, 2, Activation.SILU),
        Mixture(12, 4, Activation.GELU_TANH, over_all=True),
        Mixture(8, 3, Activation.RELU, gated=False),
        Mixture(5, 5, Activation.SILU, clamp=Clamp(1.702, 0.5, 1.0)),
    ]


def made(
    mixture: Mixture, hidden: int, inner: int, dtype: torch.dtype, int8: bool, bias: bool = True,
    codes: Codes | None = None,
) -> tuple[list[Expert], Tensor | None]:  # fmt: skip
    """Random experts whose results are around 1, and a bias of the scores."""

    def weight(outputs: int, inputs: int) -> Format:
        if codes is not None:
            return codes.weight(outputs, inputs)
        if int8:
            steps = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
            return Int8(steps, torch.rand(outputs) * 2 / (127 * inputs**0.5))
        return Dense((torch.randn(outputs, inputs) / inputs**0.5).to(dtype))

    def offset(size: int) -> Tensor | None:
        return (torch.randn(size) / 2).to(dtype) if bias else None

    wide = inner * (2 if mixture.gated else 1)
    layers = [
        Expert(weight(wide, hidden), weight(hidden, inner), offset(wide), offset(hidden)) for _ in range(mixture.count)
    ]
    return layers, torch.randn(mixture.count) if bias else None


def close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    same = got.shape == expected.shape and got.dtype == expected.dtype == dtype
    return same and torch.allclose(got.float(), expected.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
