"""Attention on a CPU that reads the paged cache in place, by the compiled kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tgi_server.attention.base import Attend, AttentionBatch, LayerCache


LONGEST_RUN = 128
"""New positions of a sequence up to which the kernel is faster than torch's own attention."""


@dataclass
class NativeAttention:
    """Runs of up to LONGEST_RUN new positions go row by row through the kernel; longer ones to torch's own.

    The kernel reads every key once a row: best for decode. torch's reads it once for many rows: best for prompts.
    """

    def unsupported(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
        """What the compiled kernels need."""
        from tgi_server.native import kernels

        reasons = kernels.unsupported(device, dtype)
        if head_dim not in kernels.HEAD_DIMS:
            reasons.append(f"head_dim={head_dim} is not one of {', '.join(map(str, kernels.HEAD_DIMS))}")
        return reasons

    def begin(self, batch: AttentionBatch) -> Attend:
        """See `attention.base.Attention`."""
        import torch

        from tgi_server.attention.sdpa import Run
        from tgi_server.native.kernels import attend as attend_rows

        short = [i for i, n in enumerate(batch.query_lengths) if n <= LONGEST_RUN]
        runs = [Run(batch, i) for i, n in enumerate(batch.query_lengths) if n > LONGEST_RUN]
        rows = [row for i in short for row in range(batch.query_starts[i], batch.query_starts[i + 1])]
        lengths = [batch.query_lengths[i] for i in short]
        sequences = torch.tensor([i for i, n in zip(short, lengths, strict=True) for _ in range(n)])
        contexts = torch.tensor(
            [batch.context_lengths[i] - n + 1 + k for i, n in zip(short, lengths, strict=True) for k in range(n)]
        )

        def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache) -> Tensor:
            if not runs:
                return attend_rows(query, cache.keys, cache.values, batch.block_tables, sequences, contexts)
            result = query.new_empty(query.shape)
            if rows:
                result[rows] = attend_rows(
                    query[rows], cache.keys, cache.values, batch.block_tables, sequences, contexts
                )
            for run in runs:
                result[run.rows] = run(query[run.rows], key[run.rows], value[run.rows], cache)
            return result

        return attend
