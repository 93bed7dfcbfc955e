"""The operations of layers that keep states of fixed size (Mamba, arXiv:2312.00752), each declared by plain torch.

The states of a sequence are in the slot that its row of the batch's block tables names. A sequence that has no position
before the step begins with zeros, whatever is in its slot. Channels lie side by side everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from tgi_server.kernels.attention import AttentionBatch


def convolve(projected: Tensor, batch: AttentionBatch, state: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`silu` of each channel's convolution with its own weights over the last `taps` positions.

    Args:
        projected: `[tokens, 2 * channels]`, of which the first half is convolved.
        batch: the step.
        state: float32 `[slots, taps - 1, channels]`, the inputs of the positions before the step; changed.
        weight: float32 `[taps, channels]`, the last one for the position itself.
        bias: float32 `[channels]`, or None.

    Returns `[tokens, channels]`.
    """
    taps, channels = weight.shape
    inputs, slots, before = projected[:, :channels].float(), batch.block_tables[:, 0], _begun(batch, state)
    rows = []
    for i in range(len(batch.query_lengths)):
        window = torch.cat((before[i], inputs[batch.rows(i)]))
        rows.append((window.unfold(0, taps, 1) * weight.t()).sum(-1))
        before[i] = window[len(window) - taps + 1 :]
    state[slots] = before
    sums = torch.cat(rows)
    return silu(sums if bias is None else sums + bias).to(projected.dtype)


def scan(
    x: Tensor, time: Tensor, select: Tensor, projected: Tensor, batch: AttentionBatch, state: Tensor, rates: Tensor,
    skip: Tensor, bias: Tensor,
) -> Tensor:  # fmt: skip
    """The selective state-space recurrence, position by position.

    d = softplus(time + bias); state = exp(d * rates) * state + d * x * B; y = C.state + skip * x; result y * silu(gate)

    Args:
        x, time: `[tokens, channels]`.
        select: `[tokens, 2 * states]`, B and C.
        projected: `[tokens, 2 * channels]`, of which the second half is the gate.
        batch: the step.
        state: float32 `[slots, states, channels]`; changed.
        rates: float32 `[states, channels]`, negative.
        skip, bias: float32 `[channels]`.

    Returns `[tokens, channels]`, summed in float32.
    """
    before, after = select.float().chunk(2, dim=-1)
    values, steps = x.float(), softplus(time.float() + bias)
    held, result = _begun(batch, state), torch.empty_like(values)
    starts, lengths = torch.tensor(batch.query_starts[:-1]), torch.tensor(batch.query_lengths)
    for position in range(max(batch.query_lengths)):
        which = (lengths > position).nonzero().squeeze(1)
        rows = (starts[which] + position).to(x.device)
        which = which.to(x.device)
        d = steps[rows].unsqueeze(1)
        held[which] = (d * rates).exp() * held[which] + d * values[rows].unsqueeze(1) * before[rows].unsqueeze(2)
        result[rows] = (held[which] * after[rows].unsqueeze(2)).sum(1)
    state[batch.block_tables[:, 0]] = held
    return ((result + skip * values) * silu(projected[:, x.shape[1] :].float())).to(x.dtype)


def _begun(batch: AttentionBatch, state: Tensor) -> Tensor:
    """The states of a step's sequences: a copy."""
    lengths = batch.starts[1:] - batch.starts[:-1]
    return state[batch.block_tables[:, 0]].masked_fill_((batch.contexts == lengths).view(-1, 1, 1), 0.0)
