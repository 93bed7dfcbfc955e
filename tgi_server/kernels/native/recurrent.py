"""The compiled kernels for the operations that `kernels.recurrent` declares."""

from __future__ import annotations

from torch import Tensor

from tgi_server.kernels.attention import AttentionBatch
from tgi_server.kernels.native.calls import call, empty
from tgi_server.kernels.native.layout import NAMES


def convolve(projected: Tensor, batch: AttentionBatch, state: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `kernels.recurrent.convolve`."""
    taps, channels = weight.shape
    out = empty((len(projected), channels), projected.dtype)
    call(
        f"convolve_{NAMES[projected.dtype]}", out.numel(), projected, weight, bias, state, batch.starts, batch.contexts,
        batch.block_tables, out, len(batch.query_lengths), channels, taps, batch.block_tables.shape[1],
    )  # fmt: skip
    return out


def scan(
    x: Tensor, time: Tensor, select: Tensor, projected: Tensor, batch: AttentionBatch, state: Tensor, rates: Tensor,
    skip: Tensor, bias: Tensor,
) -> Tensor:  # fmt: skip
    """See `kernels.recurrent.scan`."""
    states, channels = rates.shape
    out = empty(tuple(x.shape), x.dtype)
    call(
        f"scan_{NAMES[x.dtype]}", out.numel() * states, x, time, select, projected, rates, skip, bias, state,
        batch.starts, batch.contexts, batch.block_tables, out, len(batch.query_lengths), channels, states,
        batch.block_tables.shape[1],
    )  # fmt: skip
    return out
