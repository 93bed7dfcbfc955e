"""What every attention has to agree with: the definition, over whole sequences, in float64; and steps over a cache."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tgi_server.kernels.attention import AttentionBatch, Begin, Features, LayerCache
from tgi_server.types import BLOCK_SIZE


def by_definition(query: Tensor, key: Tensor, value: Tensor, features: Features, context: int) -> Tensor:
    """Attention of `query [n, heads, width]`, the last of `context` positions, over `key`, `value` `[context, ...]`."""
    group = query.shape[1] // key.shape[1]
    q, k, v = query.double().transpose(0, 1), *(x.double().transpose(0, 1) for x in (key, value))
    k, v = (x.repeat_interleave(group, dim=0) for x in (k, v))
    i = torch.arange(context - len(query), context, device=query.device).unsqueeze(1)
    j = torch.arange(context, device=query.device).unsqueeze(0)
    scores = q @ k.transpose(1, 2) * features.scale
    if features.softcap is not None:
        scores = features.softcap * torch.tanh(scores / features.softcap)
    if features.slopes is not None:
        scores = scores + features.slopes.double().view(-1, 1, 1) * (j - i)
    if features.biases is not None:
        scores = scores + features.biases.double()[:, (j - i).clamp(-features.reach, features.reach) + features.reach]
    seen = j <= i if features.causal else torch.ones_like(j <= i)
    if features.window is not None:
        seen = seen & (j > i - features.window)
    scores = scores.masked_fill(~seen, -torch.inf)
    highest = scores.amax(-1, keepdim=True)
    if features.sinks is not None:
        highest = highest.maximum(features.sinks.double().view(-1, 1, 1))
    weights = (scores - highest).exp()
    total = weights.sum(-1, keepdim=True)
    if features.sinks is not None:
        total = total + (features.sinks.double().view(-1, 1, 1) - highest).exp()
    return (weights / total @ v).transpose(0, 1)


@dataclass
class Case:
    """Random query, key and value of `length` positions; the cache blocks they live in; how far they are computed."""

    length: int
    heads: int
    kv_heads: int
    width: int
    blocks: list[int]
    dtype: torch.dtype
    value_width: int | None = None
    done: int = 0
    results: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        sizes = (self.heads, self.width), (self.kv_heads, self.width), (self.kv_heads, self.value_width or self.width)
        self.whole = [torch.randn(self.length, *size).to(self.dtype) for size in sizes]

    def slot(self, position: int) -> int:
        return self.blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE

    def expected(self, features: Features) -> Tensor:
        """Of all computed positions, for causal features."""
        query, key, value = (x[: self.done] for x in self.whole)
        return by_definition(query, key, value, features, self.done)


def batch_of(cases: Items[tuple[Case, range]], spare: int = 0) -> AttentionBatch:
    """The step that computes these positions of each; tables have `spare` blocks more than the longest needs."""
    lengths = [len(positions) for _, positions in cases]
    width = max(len(case.blocks) for case, _ in cases) + spare
    starts, contexts = [0, *torch.tensor(lengths).cumsum(0).tolist()], [positions.stop for _, positions in cases]
    return AttentionBatch(
        query_starts=starts,
        query_lengths=lengths,
        context_lengths=contexts,
        starts=torch.tensor(starts),
        contexts=torch.tensor(contexts),
        block_tables=torch.tensor([case.blocks + [0] * (width - len(case.blocks)) for case, _ in cases]),
        slots=torch.tensor([case.slot(p) for case, positions in cases for p in positions]),
    )


def step(begin: Begin, cache: LayerCache, cases: list[Case], counts: list[int], features: Features) -> None:
    """Compute `counts` new positions of each case (0 leaves it out) and keep the results with the cases."""
    chosen = [(case, range(case.done, case.done + n)) for case, n in zip(cases, counts, strict=True) if n]
    batch = batch_of(chosen)
    query, key, value = (torch.cat([case.whole[i][p.start : p.stop] for case, p in chosen]) for i in range(3))
    block, offset = batch.slots // BLOCK_SIZE, batch.slots % BLOCK_SIZE
    cache.keys[block, :, offset], cache.values[block, :, offset] = key, value
    out = begin(batch)(query, key, value, cache, features)
    for (case, positions), part in zip(chosen, torch.split(out, batch.query_lengths), strict=True):
        case.results.append(part)
        case.done = positions.stop


def empty_cache(
    blocks: int, kv_heads: int, width: int, dtype: torch.dtype, value_width: int | None = None
) -> LayerCache:
    """NaN wherever nothing was written: what lies beyond a context must not matter."""
    keys, values = (
        torch.full((blocks, kv_heads, BLOCK_SIZE, size), torch.nan, dtype=dtype)
        for size in (width, value_width or width)
    )
    return LayerCache(keys, values)


def features_of(heads: int) -> dict[str, Features]:
    """One for each feature, and all together."""
    scale = 0.3
    slopes, sinks, biases = torch.rand(heads) / 4, torch.randn(heads), torch.randn(heads, 2 * 19 + 1)
    return {
        "plain": Features(scale),
        "window": Features(scale, window=5),
        "long-window": Features(scale, window=33),
        "softcap": Features(scale, softcap=2.0),
        "slopes": Features(scale, slopes=slopes),
        "sinks": Features(scale, sinks=sinks),
        "biases": Features(scale, biases=biases),
        "all": Features(scale, window=21, softcap=3.0, slopes=slopes, sinks=sinks, biases=biases),
    }
