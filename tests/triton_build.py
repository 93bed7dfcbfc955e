"""Compiles the Triton kernels for a GPU that need not be there: `python -m tests.triton_build 90 bfloat16`.

Prints each kernel with the bytes of shared memory it takes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from tests.sampling import rows_of
from tests.weights import Codes, int8_outlier
from tgi_server.kernels.attention import AttentionBatch, Features, LayerCache
from tgi_server.kernels.experts import Expert, Mixture
from tgi_server.kernels.formats import Dense, Format, Grouped, Int8
from tgi_server.kernels.operations import Activation, Angles, Norm, NormKind
from tgi_server.kernels.triton import decode, experts, gating, linear, norm, prefill, recurrent, rotary, sampling
from tgi_server.types import SamplingParams

BUILT = (Codes(offset=True), Codes(book=True), Codes(offset=True, order="a part"))
"""The last one takes most shared memory: it has a scale and an offset for each weight."""


class Absent:
    """Stands where triton expects the driver of the GPU."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_for(capability: int) -> None:
    """From here on in this process a launch only compiles."""
    launch = JITFunction.run

    def compile(self: Any, *args: Any, warmup: bool, **options: Any) -> None:
        kernel = launch(self, *args, warmup=True, **options)
        print(kernel.metadata.name, kernel.metadata.shared)

    triton.runtime.driver.set_active(Absent(capability))
    JITFunction.run = compile


def launch_all(dtype: torch.dtype, heads: int, kv_heads: int, width: int, hidden: int, vocabulary: int) -> None:
    """Every kernel, for a step of two sequences."""
    launch_attention(dtype, heads, kv_heads, width, width)
    launch_operations(dtype, heads, kv_heads, width, hidden)
    launch_experts(dtype, 512, 256)
    drawn = [SamplingParams(), SamplingParams(do_sample=True)]
    for size in (vocabulary, 101):
        for allowed in (None, {0: torch.ones(size, dtype=torch.bool)}):
            sampling.sample(torch.zeros(2, size), rows_of(drawn, [[1], [1]], allowed=allowed))
    launch_linear(dtype)


def launch_linear(dtype: torch.dtype, size: int = 256) -> None:
    """Every format, few rows and many; which numbers are divisible by 16 is all that sizes matter for."""
    int8, bias = Int8(torch.empty(size, size, dtype=torch.int8), torch.empty(size)), torch.zeros(size, dtype=dtype)
    byte_inputs = Codes(bits=8, order="permuted", byte_inputs=True).weight(size, size)
    codes = [codes.weight(size, size) for codes in BUILT]
    weights: list[Format] = [int8, int8_outlier(size, size), byte_inputs, *codes]
    for weight in weights:
        layer = linear.linear(weight, bias, dtype)
        for rows in (1, 30, 100) if isinstance(weight, Grouped) else (1, 2, 100):
            layer(torch.zeros(rows, size, dtype=dtype))


def launch_experts(dtype: torch.dtype, hidden: int, inner: int) -> None:
    """Every format, with and without what makes another kernel, few rows and many."""

    def weight(outputs: int, inputs: int, kind: type[Int8] | Codes | None) -> Format:
        if kind is None:
            return Dense(torch.empty(outputs, inputs, dtype=dtype))
        if isinstance(kind, Codes):
            return kind.weight(outputs, inputs)
        return Int8(torch.empty(outputs, inputs, dtype=torch.int8), torch.empty(outputs))

    for kind in (None, Int8, BUILT[-1]):
        small = kind is not None
        inputs, down = weight(2 * inner, hidden, kind), weight(hidden, inner, kind)
        offset = torch.empty(hidden, dtype=dtype) if small else None
        layers = [Expert(inputs, down, None if offset is None else offset.new_empty(2 * inner), offset)] * 4
        mixture = Mixture(4, 2, Activation.SILU, over_all=small)
        run = experts.experts(layers, mixture, torch.empty(4) if small else None, dtype)
        for rows in (1, 100):
            x = torch.empty(rows, hidden, dtype=dtype)
            for columns, shared in ((4, None), (4, x), (5, x)):
                run(x, torch.empty(rows, columns), shared)


def launch_attention(dtype: torch.dtype, heads: int, kv_heads: int, width: int, value_width: int) -> None:
    """With and without what makes another kernel: slopes, sinks, biases and parts."""
    numbers = torch.arange(2)
    keys, values = (torch.empty(4, kv_heads, 16, size, dtype=dtype) for size in (width, value_width))
    cache, query = LayerCache(keys, values), torch.empty(2, heads, width, dtype=dtype)
    for each, biases in ((None, None), (torch.empty(heads), torch.empty(heads, 257))):
        features = Features(0.1, window=100, softcap=30.0, slopes=each, sinks=each, biases=biases)
        for parts in (1, 2):
            decode.decode(query, cache, numbers[:, None], numbers, features, parts)
        prefill.prefill(query, cache, numbers[:, None], torch.arange(3), numbers, features)


def launch_operations(dtype: torch.dtype, heads: int, kv_heads: int, width: int, hidden: int) -> None:
    """Every kind of norm and activation, heads that turn in whole and in part or not."""
    residual, x, weight = torch.empty(2, hidden), torch.empty(2, hidden, dtype=dtype), torch.empty(hidden)
    for kind in NormKind:
        full = Norm(kind, 1e-5, weight, weight)
        norm.add_norm(residual, x, full, dtype)
        norm.add_norm(residual, None, Norm(kind, 1e-5), dtype)
        norm.add_norm(residual, x, None, dtype, full, 0.5)
    for activation in Activation:
        for gated in (True, False):
            gating.gate(x, activation, gated)
    cache = LayerCache(*(torch.empty(4, kv_heads, 16, width, dtype=dtype) for _ in range(2)))
    qkv = torch.empty(2, (heads + 2 * kv_heads) * width, dtype=dtype)
    rms, layer = Norm(NormKind.RMS, 1e-5, weight[:width]), Norm(NormKind.LAYER, 1e-5, None, weight[:width])
    for half in (width // 2, width // 8):
        angles = Angles(torch.empty(2, half), torch.empty(2, half))
        rotary.rotate_store(qkv, angles, torch.arange(2), cache, heads)
        rotary.rotate_store(qkv, angles, torch.arange(2), cache, heads, rms, layer)
    all_heads = Norm(NormKind.RMS, 1e-5, torch.empty(heads * width))
    squares = norm.mean_squares(qkv, (heads * width, kv_heads * width), (heads * width, kv_heads * width))
    rotary.rotate_store(qkv, angles, torch.arange(2), cache, heads, all_heads, all_heads, squares)
    rotary.rotate_store(qkv, None, torch.arange(2), cache, heads, layer, Norm(NormKind.IDENTITY))
    rotary.rotate_store(qkv[:, heads * width :].contiguous(), None, torch.arange(2), cache, 0)


def launch_recurrent(dtype: torch.dtype, channels: int, states: int, taps: int) -> None:
    """Prompts and single positions, with a bias and without."""
    numbers, each, state = torch.arange(3), torch.empty(channels), torch.empty(4, states, channels)
    projected, select = torch.empty(8, 2 * channels, dtype=dtype), torch.empty(8, 2 * states, dtype=dtype)
    x, rates, weight = projected[:, :channels].contiguous(), state[0], torch.empty(taps, channels)
    for lengths in ([4, 4], [1, 1]):
        batch = AttentionBatch([0, 4, 8], lengths, lengths, numbers, numbers, numbers[:2, None], numbers)
        for bias in (None, each):
            recurrent.convolve(projected, batch, torch.empty(4, taps - 1, channels), weight, bias)
        recurrent.scan(x, x, select, projected, batch, state, rates, each, each)


if __name__ == "__main__":
    compile_for(int(sys.argv[1]))
    launch_all(getattr(torch, sys.argv[2]), 32, 8, 128, 4096, 128256)
    launch_attention(getattr(torch, sys.argv[2]), 16, 8, 256, 256)  # the widest heads
    launch_attention(getattr(torch, sys.argv[2]), 16, 16, 192, 128)
    launch_operations(getattr(torch, sys.argv[2]), 6, 3, 64, 384)  # several key heads a program, more than there are
    launch_recurrent(getattr(torch, sys.argv[2]), 1536, 16, 4)
