"""The compiled kernels as functions of tensors. All tensors are contiguous, on the CPU, in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_float, c_long, c_void_p
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from tgi_server.native.build import NativeError, library
from tgi_server.types import BLOCK_SIZE

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
HEAD_DIMS = (32, 64, 96, 128)
"""Widths of an attention head that `attend` is made for."""

_ARGUMENTS: dict[str, list[Any]] = {
    "add_norm": [c_void_p] * 4 + [c_long] * 2 + [c_float],
    "gate": [c_void_p] * 2 + [c_long] * 2,
    "rotate_store": [c_void_p] * 9 + [c_long] * 5,
    "attend": [c_void_p] * 4 + [c_long] + [c_void_p] * 3 + [c_long] * 5 + [c_float],
}


def unsupported(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Why the kernels cannot run for `dtype` on `device`; empty when they can."""
    if device.type != "cpu":
        return ["the compiled kernels are for CPUs"]
    if dtype not in DTYPES:
        return [f"the compiled kernels compute in float32 and bfloat16, not {dtype}"]
    try:
        library()
    except NativeError as error:
        return [str(error)]
    return []


@cache
def _kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    function = getattr(library(), f"{name}_{DTYPES[dtype]}")
    function.argtypes, function.restype = _ARGUMENTS[name], None
    return cast(Callable[..., None], function)


def add_norm(residual: Tensor, x: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Add `x [rows, size]` to the float32 `residual` in place; return its RMS norm times `weight` in `dtype`."""
    rows, size = residual.shape
    out = torch.empty(rows, size, dtype=dtype)
    added = None if x is None else x.data_ptr()
    _kernel("add_norm", dtype)(residual.data_ptr(), added, weight.data_ptr(), out.data_ptr(), rows, size, eps)
    return out


def gate(gate_up: Tensor) -> Tensor:
    """`[rows, 2 * inner]`, gate and up side by side, to `silu(gate) * up [rows, inner]`."""
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, inner)
    _kernel("gate", gate_up.dtype)(gate_up.data_ptr(), out.data_ptr(), rows, inner)
    return out


def rotate_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, slots: Tensor, keys: Tensor, values: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate the queries and keys of `qkv [rows, (heads + 2 * kv_heads) * dim]`; store keys and values in the cache.

    `cos`, `sin` are float32 `[positions, dim / 2]`; `keys`, `values` `[blocks, kv_heads, BLOCK_SIZE, dim]`; `positions`
    and `slots` int64 `[rows]`. Returns query `[rows, heads, dim]`, key and value `[rows, kv_heads, dim]`.
    """
    rows, kv, dim = qkv.shape[0], keys.shape[1], keys.shape[3]
    query, key = qkv.new_empty(rows, heads, dim), qkv.new_empty(rows, kv, dim)
    _kernel("rotate_store", qkv.dtype)(
        qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(), positions.data_ptr(), slots.data_ptr(), query.data_ptr(),
        key.data_ptr(), keys.data_ptr(), values.data_ptr(), rows, heads, kv, dim, BLOCK_SIZE,
    )  # fmt: skip
    return query, key, qkv.view(rows, -1, dim)[:, heads + kv :]


def attend(query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, sequences: Tensor, contexts: Tensor) -> Tensor:
    """Scaled dot-product attention of rows that each see a prefix of a cached sequence, read in place.

    Row i of `query [rows, heads, dim]` sees `contexts[i]` positions of the blocks `tables[sequences[i]]`
    (`tables [sequences, blocks]`; all int64). The result has the shape of `query`.
    """
    rows, heads, dim = query.shape
    out = torch.empty_like(query)
    _kernel("attend", query.dtype)(
        query.data_ptr(), keys.data_ptr(), values.data_ptr(), tables.data_ptr(), tables.shape[1],
        sequences.data_ptr(), contexts.data_ptr(), out.data_ptr(),
        rows, heads, keys.shape[1], dim, BLOCK_SIZE, dim**-0.5,
    )  # fmt: skip
    return out
