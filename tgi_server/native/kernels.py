"""The compiled kernels as functions of tensors, which are contiguous and on the CPU.

Unless something else is said they are in the dtype that the model computes in, float32 or bfloat16.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from tgi_server import custom_kernels
from tgi_server.native.build import NativeError, cpu_info, library
from tgi_server.native.calls import call, empty, hold
from tgi_server.types import BLOCK_SIZE

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}
"""How the kernels' names spell a dtype."""
HEAD_DIMS = (32, 64, 96, 128)
"""Widths of an attention head that `attend` is made for."""
BLOCK = 16
"""Positions in a cache block that `attend` is made for (attention.cpp)."""
PANEL = 32
"""Outputs whose weights lie side by side in a packed weight (linear.cpp)."""
TASKS_PER_THREAD = 4
"""Pieces of attention a thread should find: contexts are cut where sequences and heads alone make fewer."""


def unsupported(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Why the kernels cannot run for `dtype` on `device`; empty when they can."""
    if reasons := custom_kernels.disabled():
        return reasons
    if device.type != "cpu":
        return ["the compiled kernels are for CPUs"]
    if dtype not in (torch.float32, torch.bfloat16):
        return [f"the compiled kernels compute in float32 and bfloat16, not {dtype}"]
    try:
        library()
    except NativeError as error:
        return [str(error)]
    return []


@lru_cache
def linear_unsupported(device: torch.device, dtype: torch.dtype, weight: torch.dtype) -> tuple[str, ...]:
    """Why `linear` cannot, or should not, multiply inputs of `dtype` by weights kept as `weight` (or int8)."""
    flags = next((line for line in cpu_info() if line.startswith("flags")), "")
    if dtype == weight == torch.bfloat16 and " amx_bf16" in flags:
        return ("oneDNN uses this processor's matrix unit (AMX), the compiled kernels do not",)
    return tuple(unsupported(device, dtype))


def add_norm(residual: Tensor, x: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Add `x [rows, size]` to the float32 `residual` in place; return its RMS norm times `weight` in `dtype`."""
    rows, size = residual.shape
    out = empty((rows, size), dtype)
    call(f"add_norm_{NAMES[dtype]}", "qqqqqqd", rows * size, residual, x, weight, out, rows, size, eps)
    return out


def gate(gate_up: Tensor) -> Tensor:
    """`[rows, 2 * inner]`, gate and up side by side, to `silu(gate) * up [rows, inner]`."""
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = empty((rows, inner), gate_up.dtype)
    call(f"gate_{NAMES[gate_up.dtype]}", "qqqq", rows * inner, gate_up, out, rows, inner)
    return out


def rotate_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, slots: Tensor, keys: Tensor, values: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate the queries and keys of `qkv [rows, (heads + 2 * kv_heads) * dim]`; store keys and values in the cache.

    `cos`, `sin` are float32 `[positions, dim / 2]`; `keys`, `values` `[blocks, kv_heads, BLOCK_SIZE, dim]`; `positions`
    and `slots` int64 `[rows]`. Returns query `[rows, heads, dim]`, key and value `[rows, kv_heads, dim]`.
    """
    rows, kv, dim = qkv.shape[0], keys.shape[1], keys.shape[3]
    query, key = empty((rows, heads, dim), qkv.dtype), empty((rows, kv, dim), qkv.dtype)
    call(
        f"rotate_store_{NAMES[qkv.dtype]}", "q" * 14, qkv.shape[0] * qkv.shape[1], qkv, cos, sin, positions, slots,
        query, key, keys, values, rows, heads, kv, dim, BLOCK_SIZE,
    )  # fmt: skip
    return query, key, qkv.view(rows, -1, dim)[:, heads + kv :]


def attend(
    query: Tensor, keys: Tensor, values: Tensor, starts: Tensor, contexts: Tensor, tables: Tensor, tiles: Tensor,
    most_rows: int,
) -> Tensor:  # fmt: skip
    """Causal scaled dot-product attention of new positions over their cached sequences, read in place.

    Sequence i has rows `starts[i] : starts[i + 1]` of `query [rows, heads, dim]`, the last of its `contexts[i]`
    positions, which live in the blocks `tables[i]` (`[sequences, blocks]`) of `keys` and `values`
    `[blocks, kv_heads, BLOCK_SIZE, dim]`. `tiles [n, 3]` cuts the rows into pieces of at most `most_rows`: sequence,
    first of its new positions, how many. All but query, keys and values are int64. Returns the shape of `query`.
    """
    rows, heads, dim = query.shape
    kv, threads = keys.shape[1], torch.get_num_threads()
    tasks = max(1, len(tiles) * kv)
    parts = -(-TASKS_PER_THREAD * threads // tasks) if tasks < TASKS_PER_THREAD * threads else 1
    slots = tasks * parts if parts > 1 else threads
    scratch = empty((slots * most_rows * (heads // kv) * (dim + 2),), torch.float32)
    out = empty((rows, heads, dim), query.dtype)
    hold(tiles)
    call(
        f"attend_{NAMES[query.dtype]}", "q" * 16 + "d", query.numel() * tables.shape[1], query, keys, values,
        starts, contexts, tables, tiles, scratch, out, tables.shape[1], len(tiles), most_rows, parts, heads, kv, dim,
        dim**-0.5,
    )  # fmt: skip
    return out


def best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of float32 `scores [rows, size]` the place of the largest (int64 `[rows]`), and the log-sum-exp."""
    rows, size = scores.shape
    places, normalisers = empty((rows,), torch.int64), empty((rows,), torch.float32)
    call("best_float32", "qqqqq", scores.numel(), scores, places, normalisers, rows, size)
    return places, normalisers


def per_unit(dtype: torch.dtype) -> int:
    """Inputs of `dtype` in the 32 bits that a product takes at a time."""
    return 4 // dtype.itemsize


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight [out, in]` in the order in which `linear` reads it for inputs of `dtype`; padded to whole panels.

    Panels of 32 outputs; in a panel, for every 32 bits of the input (a float, or two bfloat16) those weights of each
    output. Raises ValueError when the inputs do not fill these 32 bits.
    """
    outer, inner = weight.shape
    unit = per_unit(dtype)
    if inner % unit:
        raise ValueError(f"{inner} inputs do not make whole units of {unit}")
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -outer % PANEL))
    return padded.view(-1, PANEL, inner // unit, unit).transpose(1, 2).contiguous()


def linear(
    x: Tensor, packed: Tensor, outer: int, scale: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`x [rows, in] @ weight.T * scale + bias` as `[rows, outer]` in `dtype`, summed in float32.

    `packed` comes from `pack`, of weights in x's dtype or int8; `scale` and `bias` are float32 `[outer]`.
    """
    rows, inner = x.shape
    if packed.numel() != -(-outer // PANEL) * PANEL * inner:
        raise ValueError(f"{inner} inputs and {outer} outputs are not those of the packed weight")
    out = empty((rows, outer), dtype)
    name = f"linear_{NAMES[x.dtype]}_{NAMES[packed.dtype]}_{NAMES[dtype]}"
    call(name, "q" * 8, rows * packed.numel(), x, packed, scale, bias, out, rows, inner, outer)
    return out
