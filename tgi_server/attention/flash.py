"""Attention of new prompts by the package flash_attn (arXiv:2205.14135, 2307.08691), of all else by our own kernels."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING

from tgi_server.attention.base import AttentionBatch
from tgi_server.attention.triton import TritonAttention

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tgi_server.attention.base import Attend, LayerCache


@dataclass
class FlashAttention:
    """Runs without earlier context have their keys and values side by side in the step: those flash_attn takes.

    Its paged kernels want blocks of 256 positions; ours read the cache as it is.
    """

    recordable = True

    def unsupported(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
        """What flash_attn and the Triton kernels need."""
        import torch

        reasons = []
        if find_spec("flash_attn") is None:
            reasons.append("the package flash_attn is not installed")
        if device.type != "cuda":
            reasons.append("flash_attn needs a GPU")
        if dtype not in (torch.float16, torch.bfloat16):
            reasons.append(f"flash_attn computes in float16 and bfloat16, not {dtype}")
        if head_dim % 8:
            reasons.append(f"head_dim={head_dim} is not a multiple of 8")
        return reasons + TritonAttention().unsupported(device, dtype, head_dim)

    def begin(self, batch: AttentionBatch) -> Attend:
        """See `attention.base.Attention`."""
        lengths = batch.query_lengths
        fresh = [i for i, n in enumerate(lengths) if n > 1 and n == batch.context_lengths[i]]
        if not fresh:
            return TritonAttention().begin(batch)
        if len(fresh) == len(lengths):
            return _prompts(batch)
        others = sorted(set(range(len(lengths))) - set(fresh))
        parts = []
        for which, begin in ((fresh, _prompts), (others, TritonAttention().begin)):
            rows, part = select(batch, which)
            parts.append((rows, begin(part)))

        def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache) -> Tensor:
            result = query.new_empty(query.shape)
            for rows, part in parts:
                result[rows] = part(query[rows], key[rows], value[rows], cache)
            return result

        return attend


def _prompts(batch: AttentionBatch) -> Attend:
    """Attention of whole sequences."""
    import torch
    from flash_attn import flash_attn_varlen_func

    starts, longest = batch.starts.to(torch.int32), max(batch.query_lengths)

    def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache) -> Tensor:
        attended: Tensor = flash_attn_varlen_func(query, key, value, starts, starts, longest, longest, causal=True)
        return attended

    return attend


def select(batch: AttentionBatch, which: list[int]) -> tuple[Tensor, AttentionBatch]:
    """The rows (int64) of the sequences `which` of a batch, and these alone as a batch of their own."""
    import torch

    def on_device(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers).to(batch.starts.device, non_blocking=True)

    lengths = [batch.query_lengths[i] for i in which]
    starts = [0, *accumulate(lengths)]
    rows = on_device([row for i in which for row in range(batch.query_starts[i], batch.query_starts[i + 1])])
    sequences = on_device(which)
    return rows, AttentionBatch(
        query_starts=starts,
        query_lengths=lengths,
        context_lengths=[batch.context_lengths[i] for i in which],
        starts=on_device(starts),
        contexts=batch.contexts[sequences],
        block_tables=batch.block_tables[sequences],
        slots=batch.slots[rows],
    )
