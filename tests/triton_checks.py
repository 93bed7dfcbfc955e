"""What each Triton kernel has to agree with, for the device that torch makes tensors on by default."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.triton_device import DEVICE
from tests.unit.attention.test_attention import Sequence, dense, empty_cache, step
from tgi_server.attention.base import LayerCache
from tgi_server.attention.triton import TritonAttention
from tgi_server.layers.ops import TorchOps
from tgi_server.layers.triton_ops import TritonOps
from tgi_server.rope.rotary import RotaryTable
from tgi_server.rope.spec import RopeSpec
from tgi_server.shard.sampler import NEGLIGIBLE, Row, Watermark, choose
from tgi_server.triton import sampling
from tgi_server.triton.decode import decode
from tgi_server.triton.linear import int8_linear
from tgi_server.types import BLOCK_SIZE, SamplingParams

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Of values around 1: some units in the last place."""


def close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    return torch.allclose(got.float(), expected.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def check_add_norm(dtype: torch.dtype, rows: int, size: int) -> None:
    residual, x, weight = torch.randn(rows, size), torch.randn(rows, size).to(dtype), torch.randn(size)
    for added in (x, None):
        mine, theirs = residual.clone(), residual.clone()
        got = TritonOps(dtype).add_norm(mine, added, weight, 1e-5)
        expected = TorchOps(dtype).add_norm(theirs, added, weight, 1e-5)
        assert got.dtype == dtype
        assert torch.equal(mine, theirs)
        assert close(got, expected, dtype)


def check_gate(dtype: torch.dtype, rows: int, inner: int) -> None:
    gate_up = (torch.randn(rows, 2 * inner) * 5).to(dtype)
    gate_up[0, :3] = torch.tensor([-200.0, 200.0, 0.0])  # where e^-x over- and underflows
    assert close(TritonOps(dtype).gate(gate_up), TorchOps(dtype).gate(gate_up.float()), dtype)


def check_rotate_store(dtype: torch.dtype, rows: int, heads: int, kv_heads: int, dim: int) -> None:
    blocks = -(-rows // BLOCK_SIZE) + 2
    rotary = RotaryTable(RopeSpec(10000.0, "default", {}), dim, 100, DEVICE)
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * dim).to(dtype)
    positions, slots = torch.randint(0, 100, (rows,)), torch.randperm(blocks * BLOCK_SIZE)[:rows]
    results, caches = [], []
    for ops in (TritonOps(dtype), TorchOps(dtype)):
        cache = LayerCache(*(torch.zeros(blocks, kv_heads, BLOCK_SIZE, dim, dtype=dtype) for _ in range(2)))
        results.append(ops.rotate_store(qkv, rotary, positions, slots, cache, heads))
        caches.append(cache)
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        assert close(got, expected, dtype)
    assert torch.equal(caches[0].values, caches[1].values)
    assert close(caches[0].keys, caches[1].keys, dtype)


def check_decode(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int, contexts: list[int], parts: int, spare: int = 0
) -> None:
    """`spare` blocks more in every table than the longest context needs, as in a recorded step."""
    counts = [-(-context // BLOCK_SIZE) for context in contexts]
    blocks = torch.randperm(sum(counts)) + 1  # block 0 is what tables are padded with
    tables = torch.zeros(len(contexts), max(counts) + spare, dtype=torch.int64)
    cache = empty_cache(sum(counts) + 1, kv_heads, dim, dtype)
    query, expected = torch.randn(len(contexts), heads, dim).to(dtype), []
    for i, (context, own) in enumerate(zip(contexts, torch.split(blocks, counts), strict=True)):
        tables[i, : len(own)] = own
        key, value = torch.randn(2, context, kv_heads, dim).to(dtype)
        block, offset = own[torch.arange(context) // BLOCK_SIZE], torch.arange(context) % BLOCK_SIZE
        cache.keys[block, :, offset], cache.values[block, :, offset] = key, value
        q, k, v = (x.float().transpose(0, 1) for x in (query[i : i + 1], key, value))
        expected.append(scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(0, 1))
    got = decode(query, cache.keys, cache.values, tables, torch.tensor(contexts), parts)
    assert got.dtype == dtype
    assert close(got, torch.cat(expected), dtype)


def check_steps(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int, lengths: list[int], steps: list[list[int]]
) -> None:
    """Sequences of `lengths` in `steps` of so many new positions of each, by TritonAttention."""
    counts = [-(-length // BLOCK_SIZE) for length in lengths]
    blocks = torch.split(torch.randperm(sum(counts)) + 1, counts)
    cache = empty_cache(sum(counts) + 1, kv_heads, dim, dtype)
    sequences = [Sequence(n, heads, kv_heads, dim, own.tolist(), dtype) for n, own in zip(lengths, blocks, strict=True)]
    for new in steps:
        step(TritonAttention(), cache, sequences, new)
    for sequence in sequences:
        done = sequence.done
        whole = dense(*(x[:done] for x in sequence.whole))
        assert close(torch.cat(sequence.results), whole, dtype)


def check_choice(logits: Tensor, params: list[SamplingParams]) -> None:
    """The same tokens as plain torch picks; row i is at position 3 * i."""
    rows = [Row(p, np.arange(3 * i), 0) for i, p in enumerate(params)]
    expected = choose(logits.cpu(), rows, Watermark())
    draws = torch.tensor([(p.seed, 3 * i, p.samples) for i, p in enumerate(params)])
    got = sampling.choose(logits, draws, NEGLIGIBLE, any(p.samples for p in params))
    assert got[0].tolist() == expected.tokens.tolist()
    assert close(got[1].cpu(), expected.logprobs, torch.float32)
    assert close(got[2], logits.logsumexp(dim=-1), torch.float32)


def check_int8_linear(dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    scale, bias = torch.rand(outputs) / (127 * inputs**0.5), torch.randn(outputs).to(dtype)
    product = x.double() @ (weight.double() * scale.double()[:, None]).T
    for added, expected in ((None, product), (bias, product + bias.double())):
        got = int8_linear(x, weight, scale, added)
        assert got.dtype == dtype
        assert close(got, expected, dtype)
