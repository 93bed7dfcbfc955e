"""What each Triton kernel has to agree with, for the device that torch makes tensors on by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import tests.triton_device  # noqa: F401  # before the kernels, which are for good what they are imported as
from tests import experts as mixtures
from tests.attention import Case, batch_of, by_definition, empty_cache, step
from tests.sampling import rows_of
from tests.weights import Codes
from tgi_server.kernels import operations, plain
from tgi_server.kernels.attention import Attend, AttentionBatch, Features, LayerCache
from tgi_server.kernels.experts import Mixture
from tgi_server.kernels.experts import experts as declared_experts
from tgi_server.kernels.formats import Format, Int8, row_tensors
from tgi_server.kernels.operations import FREE, Activation, Angles, Clamp, Norm, NormKind
from tgi_server.kernels.sampling import sample as declared_sample
from tgi_server.kernels.triton import experts, gating, norm, rotary, sampling
from tgi_server.kernels.triton.attention import attention
from tgi_server.kernels.triton.decode import decode
from tgi_server.kernels.triton.linear import linear
from tgi_server.types import BLOCK_SIZE, SamplingParams

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Of values around 1: some units in the last place."""


def close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    same = got.shape == expected.shape
    return same and torch.allclose(got.float(), expected.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def norms(size: int) -> list[Norm]:
    """Every kind, with and without weight and bias."""
    weight, bias = torch.randn(2, size)
    kinds = [
        Norm(kind, 1e-5, w, b) for kind in (NormKind.RMS, NormKind.LAYER) for w, b in ((weight, None), (None, bias))
    ]
    return [Norm(NormKind.IDENTITY), *kinds, Norm(NormKind.LAYER, 1e-6, weight, bias)]


def check_add_norm(
    dtype: torch.dtype, rows: int, size: int, norm_: Norm | None, post: Norm | None = None, scale: float = 1.0
) -> None:
    """With and without something to add."""
    residual, x = torch.randn(rows, size) + 0.5, torch.randn(rows, size).to(dtype)
    for added in (x, None):
        mine, theirs = residual.clone(), residual.clone()
        got = norm.add_norm(mine, added, norm_, dtype, post, scale)
        expected = operations.add_norm(theirs, added, norm_, dtype, post, scale)
        assert close(mine, theirs, torch.float32)
        assert torch.equal(mine, theirs) or added is not None
        assert (got is None) == (expected is None)
        if got is not None and expected is not None:
            assert got.dtype == dtype
            assert close(got, expected, dtype)


def check_gate(
    dtype: torch.dtype, rows: int, inner: int, activation: Activation, gated: bool = True, clamp: Clamp = FREE
) -> None:
    x = (torch.randn(rows, 2 * inner if gated else inner) * 5).to(dtype)
    x[0, :3] = torch.tensor([-200.0, 200.0, 0.0])  # where e^-x over- and underflows
    got = gating.gate(x, activation, gated, clamp)
    assert got.dtype == dtype
    assert close(got, operations.gate(x.float(), activation, gated, clamp), dtype)


def angles_of(tokens: int, half: int) -> Angles:
    turns = torch.rand(tokens, half) * 6
    return Angles(turns.cos(), turns.sin())


def check_rotate_store(
    dtype: torch.dtype, rows: int, heads: int, kv_heads: int, width: int,
    turned: int | None = None, value_width: int | None = None, norms: tuple[Norm | None, Norm | None] = (None, None),
    squares: Tensor | None = None,
) -> None:  # fmt: skip
    """`turned` numbers of a head turn: all if None."""
    blocks, value_width = -(-rows // BLOCK_SIZE) + 2, value_width or width
    qkv = (torch.randn(rows, (heads + kv_heads) * width + kv_heads * value_width) + 0.5).to(dtype)
    angles = None if turned == 0 else angles_of(rows, (turned or width) // 2)
    slots = torch.randperm(blocks * BLOCK_SIZE)[:rows]
    results, caches = [], []
    for rotate_store in (rotary.rotate_store, operations.rotate_store):
        sizes = ((blocks, kv_heads, BLOCK_SIZE, size) for size in (width, value_width))
        cache = LayerCache(*(torch.zeros(size, dtype=dtype) for size in sizes))
        results.append(rotate_store(qkv, angles, slots, cache, heads, *norms, squares))
        caches.append(cache)
    for got, expected in zip(*results, strict=True):
        assert got.dtype == dtype
        assert close(got, expected, dtype)
    assert torch.equal(caches[0].values, caches[1].values)
    assert close(caches[0].keys, caches[1].keys, dtype)


def check_norms_of_all_heads(dtype: torch.dtype, rows: int, heads: int, kv_heads: int, width: int) -> None:
    """What such norms divide by, and heads divided by it."""
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * width).to(dtype)
    sizes, totals = (heads * width, kv_heads * width), (2 * heads * width, 3 * kv_heads * width)
    got = norm.mean_squares(qkv, sizes, totals)
    assert close(got, operations.mean_squares(qkv, sizes, totals), torch.float32)
    query, key = (Norm(NormKind.RMS, 1e-5, torch.randn(size)) for size in sizes)
    for own, turned in (((query, key), width), ((None, key), width // 2), ((Norm(NormKind.RMS, 1e-5), None), 0)):
        check_rotate_store(dtype, rows, heads, kv_heads, width, turned, norms=own, squares=torch.rand(rows, 2) + 0.5)


def cases_of(
    dtype: torch.dtype, heads: int, kv_heads: int, width: int, lengths: Sequence[int], value_width: int | None = None
) -> tuple[list[Case], LayerCache]:
    """Cases of these lengths and a cache for them, of which block 0 is nobody's."""
    counts = [-(-length // BLOCK_SIZE) for length in lengths]
    blocks = torch.split(torch.randperm(sum(counts)) + 1, counts)
    cases = [
        Case(n, heads, kv_heads, width, own.tolist(), dtype, value_width)
        for n, own in zip(lengths, blocks, strict=True)
    ]
    return cases, empty_cache(sum(counts) + 1, kv_heads, width, dtype, value_width)


def forget(case: Case, cache: LayerCache, window: int | None) -> None:
    """Give back the blocks that the next position's window does not reach: NaN, and nobody's in the table."""
    reached = 0 if window is None else max(case.done - window + 1, 0)
    for i in range(reached // BLOCK_SIZE):
        cache.keys[case.blocks[i]] = cache.values[case.blocks[i]] = torch.nan
        case.blocks[i] = 0


def check_decode(
    dtype: torch.dtype, shape: tuple[int, int, int], contexts: list[int], parts: int, features: Features,
    spare: int = 0, value_width: int | None = None,
) -> None:  # fmt: skip
    """`spare` blocks more in every table than the longest context needs, as in a recorded step."""
    cases, cache = cases_of(dtype, *shape, contexts, value_width)
    expected = []
    for case in cases:
        slots = torch.tensor([case.slot(position) for position in range(case.length)])
        block, offset = slots // BLOCK_SIZE, slots % BLOCK_SIZE
        cache.keys[block, :, offset], cache.values[block, :, offset] = case.whole[1], case.whole[2]
        case.done = case.length - 1
        forget(case, cache, features.window)
        query, key, value = case.whole
        expected.append(by_definition(query[-1:], key, value, features, case.length))
    batch = batch_of([(case, range(case.length - 1, case.length)) for case in cases], spare)
    query = torch.cat([case.whole[0][-1:] for case in cases])
    got = decode(query, cache, batch.block_tables, batch.contexts, features, parts)
    assert got.dtype == dtype
    assert close(got, torch.cat(expected), dtype)


def check_steps(
    dtype: torch.dtype, shape: tuple[int, int, int], steps: list[list[int]], features: Features,
    value_width: int | None = None,
) -> None:  # fmt: skip
    """Sequences in `steps` of so many new positions of each, blocks before the window given back in between."""
    lengths = [sum(counts) for counts in zip(*steps, strict=True)]
    cases, cache = cases_of(dtype, *shape, lengths, value_width)
    expected: list[list[Tensor]] = [[] for _ in cases]
    for counts in steps:
        for case, n, results in zip(cases, counts, expected, strict=True):
            stop = case.done + n
            query, key, value = case.whole[0][case.done : stop], case.whole[1][:stop], case.whole[2][:stop]
            results += [by_definition(query, key, value, features, stop)] if n else []
        step(checked, cache, cases, counts, features)
        for case in cases:
            forget(case, cache, features.window)
    for case, results in zip(cases, expected, strict=True):
        assert close(torch.cat(case.results), torch.cat(results), dtype)


def checked(batch: AttentionBatch) -> Attend:
    """The attention of the kernels, whose results are as wide as values and of the queries' dtype."""
    attend = attention(batch)

    def checked(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, features: Features) -> Tensor:
        result = attend(query, key, value, cache, features)
        assert result.dtype == query.dtype
        assert result.shape == (*query.shape[:2], value.shape[-1])
        return result

    return checked


def check_sample(logits: Tensor, params: Sequence[SamplingParams], allowed: Mapping[int, Tensor] | None = None) -> None:
    """The same tokens as plain torch picks, by the same scores; row i follows a text of 3 * i tokens."""
    texts = [torch.arange(3 * i).remainder(logits.shape[1]).tolist() for i in range(len(params))]
    rows = rows_of(params, texts, list(range(len(params))), allowed)
    expected_scores = logits.clone()
    tokens, logprobs, normalisers = sampling.sample(logits, rows)
    expected = declared_sample(expected_scores, rows)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == expected[0].tolist()
    assert close(logprobs, expected[1], torch.float32)
    assert close(normalisers, expected[2], torch.float32)
    assert close(logits, expected_scores, torch.float32)


def drawn(seeds: Sequence[int | None], **more: Any) -> list[SamplingParams]:
    """One for each seed; greedy where it is None."""
    return [SamplingParams(do_sample=seed is not None, seed=seed or 0, **more) for seed in seeds]


def check_int8_linear(dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    x, steps = torch.randn(rows, inputs).to(dtype), torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    weight, bias = Int8(steps, torch.rand(outputs) / (127 * inputs**0.5)), torch.randn(outputs).to(dtype)
    product = x.double() @ weight.widened(torch.float64).T
    for added, expected in ((None, product), (bias, product + bias.double())):
        got = linear(weight, added, dtype)(x)
        assert got.dtype == dtype
        assert close(got, expected, dtype)


def check_linear(dtype: torch.dtype, rows: int, weight: Format) -> None:
    """With a bias and without; some inputs are large, some rows have none of these."""
    x, bias = torch.randn(rows, weight.inputs).to(dtype), torch.randn(len(next(iter(row_tensors(weight).values()))))
    x[0, ::50] *= 16
    x[rows // 2, weight.inputs - 1] = -20.0
    layer, added = linear(weight, bias.to(dtype), dtype), bias.to(dtype).double()
    alone = linear(weight, None, dtype)
    expected = weight.seen(x).double() @ weight.widened(torch.float64).T
    for got, right in ((alone(x), expected), (layer(x), expected + added)):
        assert got.dtype == dtype
        assert close(got, right, dtype)


def check_capture(dtype: torch.dtype, rows: int, weight: Format) -> None:
    """Recorded as a CUDA graph it computes other inputs too."""
    layer = linear(weight, None, dtype)
    x = torch.randn(rows, weight.inputs).to(dtype)
    layer(x)  # compiled before it is recorded
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = layer(x)
    for size in (1, 10):
        x.copy_(torch.randn(rows, weight.inputs) * size)
        graph.replay()
        assert close(recorded / size, layer(x) / size, dtype)


def check_experts(
    dtype: torch.dtype, rows: int, mixture: Mixture, hidden: int, inner: int, int8: bool = False, bias: bool = True,
    codes: Codes | None = None,
) -> None:  # fmt: skip
    """With nothing that all rows share, with something, and, with a weight for that; of many rows the last."""
    layers, offsets = mixtures.made(mixture, hidden, inner, dtype, int8, bias, codes)
    ours = experts.experts(layers, mixture, offsets, dtype)
    theirs = declared_experts(layers, mixture, offsets, dtype, plain.linear)
    x, scores = torch.randn(rows, hidden).to(dtype), torch.randn(rows, mixture.count + 1)
    cases = [(mixture.count + 1, x), (mixture.count, None), (mixture.count, x)]
    for columns, shared in cases[: 3 if rows < 64 else 1]:
        some = scores[:, :columns].contiguous()
        assert mixtures.close(ours(x, some, shared), theirs(x, some, shared), dtype)
