"""What decode and prefill share: the scores of a tile of keys and the softmax that runs over such tiles.

Scores are to base 2, as GPUs compute powers of two fastest. A layer's features are values at run time: only whether
there are slopes and sinks makes another kernel.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.attention import Features

LOG2_E = tl.constexpr(math.log2(math.e))
NO_WINDOW = 1 << 30
"""More positions than any context has; its sum with a position is below 2^31."""


def arguments(features: Features) -> tuple[Tensor | None, Tensor | None, Tensor | None, int, float, float, int]:
    """What the kernels take as `slopes, sinks, biases, reach, scale, softcap, window`; scale and cap to base 2."""
    log2_e = math.log2(math.e)
    window = NO_WINDOW if features.window is None else min(features.window, NO_WINDOW)
    scale, softcap = features.scale * log2_e, (features.softcap or 0.0) * log2_e
    return features.slopes, features.sinks, features.biases, features.reach, scale, softcap, window


@triton.jit
def _tanh(x):
    """By a power of two that never overflows."""
    power = tl.exp2(tl.abs(x) * (-2.0 * LOG2_E))
    size = (1.0 - power) / (1.0 + power)
    return tl.where(x < 0.0, -size, size)


@triton.jit
def slopes_of(slopes, head, mask):
    """Slopes (to base 2) of the query heads `head`; None when the layer has none."""
    if slopes is None:
        return None
    else:  # noqa: RET505 (known when it is compiled)
        return tl.load(slopes + head, mask=mask, other=0.0) * LOG2_E


@triton.jit
def biases_of(biases, head, mask, reach):
    """Where the biases of the query heads `head` begin; None when the layer has none."""
    if biases is None:
        return None
    else:  # noqa: RET505 (known when it is compiled)
        return biases + tl.where(mask, head, 0) * (2 * reach + 1)


@triton.jit
def masked_scores(products, position, last, other, slope, bias, reach, scale, softcap, window):
    """Scores of products `[rows, keys]` of queries and keys, minus infinity where a query does not see a key.

    `position [rows]` are the queries' positions, `last [rows]` the last ones they see, `other [keys]` those of the
    keys, `slope [rows]` or None, `bias [rows]` where each row's biases begin or None; softcap 0 is none.
    """
    scores = products * scale
    if softcap > 0.0:
        scores = softcap * _tanh(scores / softcap)
    distance = other[None, :] - position[:, None]
    if slope is not None:
        scores += slope[:, None] * distance
    if bias is not None:
        scores += tl.load(bias[:, None] + tl.minimum(tl.maximum(distance, -reach), reach) + reach) * LOG2_E
    seen = (other[None, :] <= last[:, None]) & (distance > -window)
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def first_sums(sinks, head, mask, counts, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Best score, sum of weights and weighted sum of values before the first tile.

    Sinks, if there are any, are scores without a value; they take part where `counts` is true.
    """
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    if sinks is not None:
        best = tl.where(counts, tl.load(sinks + head, mask=mask, other=0.0) * LOG2_E, best)
        total = tl.where(counts, total + 1.0, total)
    return best, total, tl.zeros([ROWS, COLUMNS], tl.float32)


@triton.jit
def add_tile(best, total, attended, scores, v):
    """The same after another tile of scores `[rows, keys]` and values `[keys, columns]` (arXiv:1805.02867)."""
    higher = tl.maximum(best, tl.max(scores, axis=1))
    shift = tl.where(higher == float("-inf"), 0.0, higher)  # of a row that has seen nothing yet
    weight = tl.exp2(scores - shift[:, None])
    fade = tl.exp2(best - shift)
    total = total * fade + tl.sum(weight, axis=1)
    attended = attended * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
    return higher, total, attended
