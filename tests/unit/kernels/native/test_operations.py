"""The compiled operations against the torch functions that declare them, also for sizes that fill no vector."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from tgi_server.kernels import operations as declared
from tgi_server.kernels.attention import LayerCache
from tgi_server.kernels.native import operations
from tgi_server.kernels.operations import Activation, Angles, Norm, NormKind
from tgi_server.types import BLOCK_SIZE

DTYPES = [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)]


def close(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    return torch.allclose(got.float(), expected.float(), rtol=tolerance, atol=tolerance)


def norms(size: int) -> dict[str, Norm | None]:
    weight, bias = torch.randn(size), torch.randn(size)
    return {
        "none": None,
        "identity": Norm(NormKind.IDENTITY, 1e-5, weight),
        "rms": Norm(NormKind.RMS, 1e-5, weight),
        "rms-bias": Norm(NormKind.RMS, 1e-6, weight, bias),
        "bare-rms": Norm(NormKind.RMS, 1e-6),
        "layer": Norm(NormKind.LAYER, 1e-5, weight, bias),
        "bare-layer": Norm(NormKind.LAYER, 1e-5),
    }


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "size"), [(1, 576), (7, 33), (30, 64), (3, 5)])
def test_add_norm(dtype: torch.dtype, tolerance: float, rows: int, size: int) -> None:
    torch.manual_seed(0)
    residual, x = torch.randn(rows, size) + 0.5, (torch.randn(rows, size) * 3).to(dtype)
    for (name, norm), (after, post) in product(norms(size).items(), norms(size).items()):
        for added, scale in ((x, 1.0), (x, 0.37), (None, 1.0)):
            mine, theirs = residual.clone(), residual.clone()
            got = operations.add_norm(mine, added, norm, dtype, post, scale)
            expected = declared.add_norm(theirs, added, norm, dtype, post, scale)
            assert torch.equal(mine, theirs) or (close(mine, theirs, 1e-5) and (post is not None or scale != 1)), after
            assert (got is None) == (expected is None) == (norm is None)
            if got is not None and expected is not None:
                assert got.dtype == dtype
                assert close(got, expected, tolerance * 5), (name, after)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "inner"), [(1, 1536), (5, 171), (100, 1536), (2, 4)])
@pytest.mark.parametrize("activation", Activation)
def test_gate(dtype: torch.dtype, tolerance: float, rows: int, inner: int, activation: Activation) -> None:
    torch.manual_seed(0)
    x = (torch.randn(rows, 2 * inner) * 5).to(dtype)
    x[0, :4] = torch.tensor([-200.0, 200.0, 0.0, -13.5])  # where e^-x over- and underflows
    expected = declared.gate(x.double(), activation)
    assert close(operations.gate(x, activation), expected, tolerance)
    got = operations.gate(x, activation, gated=False)
    assert got.dtype == dtype
    assert close(got, declared.gate(x.double(), activation, gated=False), tolerance)


@pytest.mark.parametrize("activation", Activation)
def test_activations_are_exact_to_the_last_bits(activation: Activation) -> None:
    x = torch.cat((torch.linspace(-30, 30, 60001), torch.logspace(-30, 30, 999), -torch.logspace(-30, 30, 999)))
    got = operations.gate(x.unsqueeze(0), activation, gated=False)[0].double()
    expected = declared.gate(x.double(), activation, gated=False)
    assert ((got - expected).abs() <= 3e-7 * expected.abs() + 2e-7).all()
    numbers = operations.gate(torch.tensor([[torch.nan, torch.inf, 1.0]]), activation, gated=False)[0]
    assert numbers[0].isnan() and numbers[1] == torch.inf


def head_norms(width: int) -> list[tuple[Norm | None, Norm | None]]:
    query, key = Norm(NormKind.RMS, 1e-6, torch.rand(width) + 0.5), Norm(NormKind.RMS, 1e-5, torch.rand(width))
    return [(None, None), (query, key), (Norm(NormKind.RMS, 1e-6), None)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "width", "value_width", "turned"),
    [(1, 9, 3, 64, 64, 64), (5, 4, 1, 8, 8, 8), (64, 9, 3, 64, 64, 64), (3, 2, 2, 80, 80, 20), (9, 4, 2, 96, 64, 32),
     (4, 2, 1, 32, 48, None), (6, 3, 3, 36, 20, 36)],
)  # fmt: skip
def test_rotate_store(
    dtype: torch.dtype, tolerance: float, rows: int, heads: int, kv_heads: int, width: int, value_width: int,
    turned: int | None,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    qkv = torch.randn(rows, heads * width + kv_heads * (width + value_width)).to(dtype)
    turns = torch.rand(rows, (turned or 0) // 2) * 6
    angles = None if turned is None else Angles(turns.cos(), turns.sin())
    slots = torch.randperm(6 * BLOCK_SIZE)[:rows]
    for norms in head_norms(width):
        results, caches = [], []
        for run in (operations.rotate_store, declared.rotate_store):
            cache = LayerCache(
                *(torch.zeros(6, kv_heads, BLOCK_SIZE, size, dtype=dtype) for size in (width, value_width))
            )
            results.append(run(qkv, angles, slots, cache, heads, *norms))
            caches.append(cache)
        for got, expected in zip(*results, strict=True):
            assert got.shape == expected.shape
            assert close(got, expected, tolerance * 2)
        assert torch.equal(caches[0].values, caches[1].values)
        assert close(caches[0].keys, caches[1].keys, tolerance * 2)
        assert torch.equal(caches[0].keys.sum((0, 2)) != 0, caches[1].keys.sum((0, 2)) != 0)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "heads", "kv_heads", "width"), [(1, 9, 3, 64), (5, 4, 1, 8), (3, 3, 3, 36)])
def test_norms_of_all_heads_together(
    dtype: torch.dtype, tolerance: float, rows: int, heads: int, kv_heads: int, width: int
) -> None:
    """By the mean squares of the whole, of which these heads are a part."""
    torch.manual_seed(0)
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * width).to(dtype)
    sizes, totals = (heads * width, kv_heads * width), (2 * heads * width, 3 * kv_heads * width)
    squares = operations.mean_squares(qkv, sizes, totals)
    assert close(squares, declared.mean_squares(qkv, sizes, totals), 1e-5)
    turns = torch.rand(rows, width // 4) * 6
    angles, slots = Angles(turns.cos(), turns.sin()), torch.randperm(3 * BLOCK_SIZE)[:rows]
    query, key = (Norm(NormKind.RMS, 1e-6, torch.rand(n * width) + 0.5) for n in (heads, kv_heads))
    choices: list[tuple[Norm | None, Norm | None]] = [(query, key), (None, Norm(NormKind.RMS, 1e-5))]
    for norms in choices:
        caches = [
            LayerCache(*(torch.zeros(3, kv_heads, BLOCK_SIZE, width, dtype=dtype) for _ in range(2))) for _ in range(2)
        ]
        got = operations.rotate_store(qkv, angles, slots, caches[0], heads, *norms, squares=squares)
        expected = declared.rotate_store(qkv, angles, slots, caches[1], heads, *norms, squares=squares)
        for mine, theirs in zip(got, expected, strict=True):
            assert close(mine, theirs, tolerance * 2)
        assert close(caches[0].keys, caches[1].keys, tolerance * 2)


def test_the_norm_of_all_heads_is_that_of_one_row() -> None:
    torch.manual_seed(0)
    qkv, weight = torch.randn(3, 4 * 8), torch.rand(16)
    squares = declared.mean_squares(qkv, (16, 8), (16, 8))
    cache = LayerCache(torch.zeros(1, 1, BLOCK_SIZE, 8), torch.zeros(1, 1, BLOCK_SIZE, 8))
    norm = Norm(NormKind.RMS, 1e-5, weight)
    query, key, _ = declared.rotate_store(qkv, None, torch.arange(3), cache, 2, norm, None, squares)
    assert close(query.flatten(1), declared.normed(qkv[:, :16], norm), 1e-6)
    assert torch.equal(key.flatten(1), qkv[:, 16:24])


def test_bfloat16_rounds_as_torch_does() -> None:
    values = torch.tensor([[0.0, -0.0, 1.00390625, 1.01171875, 3e38, 3.4e38, 1e-30, -7.77, torch.inf, torch.nan]])
    x = torch.cat((torch.full((1, 10), 60.0), torch.ones(1, 10)), 1).bfloat16()
    assert operations.gate(x, Activation.SILU).tolist() == [[60.0] * 10]
    identity = Norm(NormKind.IDENTITY)
    got = operations.add_norm(values.clone(), None, identity, torch.bfloat16)
    expected = declared.add_norm(values.clone(), None, identity, torch.bfloat16)
    assert got is not None and expected is not None
    assert torch.equal(got[:, :9], expected[:, :9])
    assert got[0, 9].isnan()


def test_weights_of_another_dtype_are_refused() -> None:
    norm = Norm(NormKind.RMS, 1e-5, torch.ones(8).bfloat16())
    with pytest.raises(ValueError, match="bfloat16"):
        operations.add_norm(torch.zeros(1, 8), None, norm, torch.bfloat16)
