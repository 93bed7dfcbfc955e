"""8-bit weights against the float weights they are made from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models import needs
from tgi_server.kernels.formats import Int8
from tgi_server.kernels.plain import LinearOp
from tgi_server.kernels.table import best
from tgi_server.quantize.eetq import Eetq


def layer(weight: torch.Tensor, bias: torch.Tensor | None, plain: bool) -> LinearOp:
    read = Eetq().read({"weight": weight})
    wanted = replace(needs(plain, dtype=weight.dtype), format=Int8, inputs=weight.shape[1])
    choice = best("linear", wanted)
    assert choice.library == ("torch" if plain else "native")
    built: LinearOp = choice.run(read, bias, weight.dtype)
    return built


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 24, 25, 200])
@pytest.mark.parametrize("with_bias", [True, False])
def test_products_are_those_of_the_rounded_weights(plain: bool, dtype: torch.dtype, rows: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(96, 64).to(dtype), torch.randn(rows, 64).to(dtype)
    bias = torch.randn(96).to(dtype) if with_bias else None
    scale = weight.float().abs().amax(1, keepdim=True) / 127
    rounded = (weight.float() / scale).round() * scale
    expected = torch.nn.functional.linear(x.float(), rounded, None if bias is None else bias.float())
    got = layer(weight, bias, plain)(x)
    assert got.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 0.02 * float(expected.abs().max())
    assert torch.allclose(got.float(), expected, atol=tolerance)


def test_rounding_loses_at_most_half_a_step() -> None:
    weight = torch.randn(32, 48) * torch.logspace(-6, 3, 32).unsqueeze(1)
    weight[5] = 0.0
    restored = Eetq().read({"weight": weight}).widened(torch.float32)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((restored - weight).abs() <= step * 0.51 + 1e-30).all()
