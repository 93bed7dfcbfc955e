"""The compiled operations against plain torch, also for sizes that are no multiple of a vector."""

from __future__ import annotations

import pytest
import torch

from tgi_server.attention.base import LayerCache
from tgi_server.layers.ops import NativeOps, TorchOps, best_ops
from tgi_server.rope.rotary import RotaryTable
from tgi_server.rope.spec import RopeSpec
from tgi_server.types import BLOCK_SIZE

CPU = torch.device("cpu")
DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 576), (7, 33), (200, 576), (3, 5)])
def test_add_norm(dtype: torch.dtype, tolerance: float, rows: int, size: int) -> None:
    torch.manual_seed(0)
    residual, x, weight = torch.randn(rows, size), torch.randn(rows, size).to(dtype), torch.randn(size)
    for added in (x, None):
        mine, theirs = residual.clone(), residual.clone()
        got = NativeOps(dtype).add_norm(mine, added, weight, 1e-5)
        expected = TorchOps(dtype).add_norm(theirs, added, weight, 1e-5)
        assert got.dtype == dtype
        assert torch.equal(mine, theirs)
        assert torch.allclose(got.float(), expected.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("rows", "inner"), [(1, 1536), (5, 171), (100, 1536), (2, 3)])
def test_gate(dtype: torch.dtype, tolerance: float, rows: int, inner: int) -> None:
    torch.manual_seed(0)
    gate_up = (torch.randn(rows, 2 * inner) * 5).to(dtype)
    gate_up[0, :3] = torch.tensor([-200.0, 200.0, 0.0])  # where e^-x over- and underflows
    got, expected = NativeOps(dtype).gate(gate_up), TorchOps(dtype).gate(gate_up.float())
    assert torch.allclose(got.float(), expected.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "dim"), [(1, 9, 3, 64), (5, 4, 1, 8), (64, 9, 3, 64), (3, 2, 2, 80)]
)
def test_rotate_store(dtype: torch.dtype, tolerance: float, rows: int, heads: int, kv_heads: int, dim: int) -> None:
    torch.manual_seed(0)
    rotary = RotaryTable(RopeSpec(10000.0, "default", {}), dim, 100, CPU)
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * dim).to(dtype)
    positions, slots = torch.randint(0, 100, (rows,)), torch.randperm(6 * BLOCK_SIZE)[:rows]
    results, caches = [], []
    for ops in (NativeOps(dtype), TorchOps(dtype)):
        cache = LayerCache(*(torch.zeros(6, kv_heads, BLOCK_SIZE, dim, dtype=dtype) for _ in range(2)))
        results.append(ops.rotate_store(qkv, rotary, positions, slots, cache, heads))
        caches.append(cache)
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        assert torch.allclose(got.float(), expected.float(), atol=tolerance)
    assert torch.equal(caches[0].values, caches[1].values)
    assert torch.allclose(caches[0].keys.float(), caches[1].keys.float(), atol=tolerance)


def test_bfloat16_rounds_as_torch_does() -> None:
    values = torch.tensor([[0.0, -0.0, 1.00390625, 1.01171875, 3e38, 3.4e38, 1e-40, -7.77, torch.inf, torch.nan]])
    weight = torch.ones(10)
    got = NativeOps(torch.bfloat16).gate(torch.cat((torch.full((1, 10), 60.0), torch.ones(1, 10)), 1).bfloat16())
    assert got.tolist() == [[60.0] * 10]
    normed = NativeOps(torch.bfloat16).add_norm(values[:, :4].clone(), None, weight[:4], 0.0)
    assert torch.equal(normed, TorchOps(torch.bfloat16).add_norm(values[:, :4].clone(), None, weight[:4], 0.0))
    assert NativeOps(torch.bfloat16).add_norm(values.clone(), None, weight, 0.0).isnan().any()


def test_the_best_operations_that_run_are_taken() -> None:
    assert isinstance(best_ops(CPU, torch.float32), NativeOps)
    assert isinstance(best_ops(CPU, torch.float16), TorchOps)
