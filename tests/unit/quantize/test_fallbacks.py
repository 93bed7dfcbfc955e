"""Linear layers and logits where the compiled kernels cannot run, against float32."""

from __future__ import annotations

import pytest
import torch

from tgi_server.layers.vocabulary import float_logits
from tgi_server.quantize.base import LinearOp
from tgi_server.quantize.eetq import WideningLinear
from tgi_server.quantize.none import OneDnnLinear, TorchLinear, _onednn_multiplies


@pytest.mark.parametrize("kind", [OneDnnLinear, TorchLinear])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products(kind: type[OneDnnLinear] | type[TorchLinear], dtype: torch.dtype) -> None:
    if kind is OneDnnLinear and not _onednn_multiplies(dtype):
        pytest.skip("oneDNN does not multiply this here")
    torch.manual_seed(0)
    weight, bias = torch.randn(33, 65).to(dtype), torch.randn(33).to(dtype)
    for rows in (1, 5, 40):
        x = torch.randn(rows, 65).to(dtype)
        for added in (bias, None):
            layer: LinearOp = kind(weight, added)
            expected = x.float() @ weight.float().T + (0 if added is None else added.float())
            assert torch.allclose(layer(x).float(), expected, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_sums_of_8_bit_weights_fit(dtype: torch.dtype) -> None:
    steps = torch.full((3, 4096), 127, dtype=torch.int8)
    layer = WideningLinear(steps, torch.full((3,), 1e-4), torch.ones(3, dtype=dtype))
    got = layer(torch.full((2, 4096), 2.0, dtype=dtype))
    assert torch.allclose(got.float(), torch.full((2, 3), 2 * 4096 * 127e-4 + 1), rtol=1e-2)


def test_the_leading_logits_are_exact() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(200, 64).bfloat16(), torch.randn(6, 64).bfloat16()
    exact = x.float() @ weight.float().T
    got = float_logits(x, weight, TorchLinear(weight, None))
    assert torch.equal(got.argmax(-1), exact.argmax(-1))
    assert torch.allclose(got.amax(-1), exact.amax(-1), rtol=1e-6)
