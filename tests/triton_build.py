"""Compiles the Triton kernels for a GPU that need not be there: `python -m tests.triton_build 90 bfloat16`.

Prints each kernel with the bytes of shared memory it takes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from tgi_server.triton import decode, gating, linear, norm, prefill, rotary, sampling


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


def launch_all(dtype: torch.dtype, heads: int, kv_heads: int, dim: int, hidden: int, vocabulary: int) -> None:
    """Every kernel once, for a step of two sequences."""

    def new(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(size, dtype=dtype)

    numbers, table = torch.arange(2), new(10, dim // 2, dtype=torch.float32)
    keys, values = new(4, kv_heads, 16, dim), new(4, kv_heads, 16, dim)
    qkv, query = new(2, (heads + 2 * kv_heads) * dim), new(2, heads, dim)
    norm.add_norm(new(2, hidden, dtype=torch.float32), new(2, hidden), new(hidden, dtype=torch.float32), 1e-5, dtype)
    gating.gate(new(2, 2 * hidden))
    rotary.rotate_store(qkv, table, table, numbers, numbers, keys, values, heads)
    for parts in (1, 2):
        decode.decode(query, keys, values, numbers[:, None], numbers, parts)
    prefill.prefill(query, keys, values, numbers[:, None], torch.arange(3), numbers)
    sampling.choose(new(2, vocabulary, dtype=torch.float32), new(2, 3, dtype=torch.int64), 30.0, True)
    for rows in (1, 2, 100):
        weight, scale = new(hidden, hidden, dtype=torch.int8), new(hidden, dtype=torch.float32)
        linear.int8_linear(new(rows, hidden), weight, scale, new(hidden))


if __name__ == "__main__":
    compile_for(int(sys.argv[1]))
    launch_all(getattr(torch, sys.argv[2]), 32, 8, 128, 4096, 128256)
