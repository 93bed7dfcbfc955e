"""Attention of new prompts by the package flash_attn (arXiv:2205.14135, 2307.08691), of all else by the Triton kernels.

Runs without earlier context have their keys and values side by side in the step: those flash_attn takes. Its paged
kernels want blocks of 256 positions; ours read the cache as it is.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import accumulate

import torch
from torch import Tensor

from tgi_server.kernels.attention import Attend, AttentionBatch, Features, LayerCache
from tgi_server.kernels.row import Kernel, Needs
from tgi_server.kernels.triton.rows import attention_unsupported

OLDEST = "2.6"
"""Version of flash_attn that first took softcap; windows and slopes are older."""


def attention(batch: AttentionBatch) -> Attend:
    """The operation `attention`. Layers whose features flash_attn lacks go through the Triton kernels as a whole."""
    from tgi_server.kernels.triton.attention import attention as by_triton

    lengths, ours = batch.query_lengths, by_triton(batch)
    fresh = [i for i, n in enumerate(lengths) if n > 1 and n == batch.context_lengths[i]]
    if not fresh:
        return ours
    flash = _prompts(batch) if len(fresh) == len(lengths) else _mixed(batch, fresh)

    def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, features: Features) -> Tensor:
        return (flash if _served(features) else ours)(query, key, value, cache, features)

    return attend


def _served(features: Features) -> bool:
    """Whether flash_attn has them: no sinks, no biases, and its slopes mean `-slope * |j - i|`, also for keys after a
    query."""
    return features.sinks is None and features.biases is None and (features.slopes is None or features.causal)


def _mixed(batch: AttentionBatch, fresh: list[int]) -> Attend:
    """The sequences `fresh` by flash_attn, the others by the Triton kernels."""
    from tgi_server.kernels.triton.attention import attention as by_triton

    others = sorted(set(range(len(batch.query_lengths))) - set(fresh))
    parts = []
    for which, begin in ((fresh, _prompts), (others, by_triton)):
        rows, part = select(batch, which)
        parts.append((rows, begin(part)))

    def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, features: Features) -> Tensor:
        result = query.new_empty(*query.shape[:2], value.shape[-1])
        for rows, part in parts:
            result[rows] = part(query[rows], key[rows], value[rows], cache, features)
        return result

    return attend


def _prompts(batch: AttentionBatch) -> Attend:
    """Attention of whole sequences."""
    from flash_attn import flash_attn_varlen_func

    starts, longest = batch.starts.to(torch.int32), max(batch.query_lengths)

    def attend(query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, features: Features) -> Tensor:
        attended: Tensor = flash_attn_varlen_func(
            query, key, value, starts, starts, longest, longest,
            softmax_scale=features.scale, causal=features.causal, window_size=_window(features),
            softcap=features.softcap or 0.0, alibi_slopes=features.slopes,
        )  # fmt: skip
        return attended

    return attend


def _window(features: Features) -> tuple[int, int]:
    """Positions seen before and after a query's own; -1 for all."""
    return -1 if features.window is None else features.window - 1, 0 if features.causal else -1


def select(batch: AttentionBatch, which: list[int]) -> tuple[Tensor, AttentionBatch]:
    """The rows (int64) of the sequences `which` of a batch, and these alone as a batch of their own."""

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


def _unsupported(needs: Needs) -> list[str]:
    """Its own reasons and those of the Triton kernels, which do the rest."""
    reasons = _too_old() + attention_unsupported(needs)
    if needs.key_width != needs.value_width:
        reasons.append(f"its keys and values are equally wide, not {needs.key_width} and {needs.value_width}")
    return reasons


def _too_old() -> list[str]:
    """Whether the package, if there is one (the table knows), is known to take all arguments."""
    try:
        found = version("flash_attn")
    except PackageNotFoundError:  # flash-attn-4 puts another interface into a package of the same name
        return ["the version of the package flash_attn is not known"] if find_spec("flash_attn") else []
    old = _release(found) < _release(OLDEST)
    return [f"it needs flash_attn {OLDEST} or newer; {found} is installed"] if old else []


def _release(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)[:2]]


ROWS = [Kernel("attention", "flash_attn", lambda: attention, _unsupported, recorder="graphs")]
