"""Rows of scores and how they get their tokens, for tests of the operation `sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tgi_server.kernels.sampling import SamplingRows
from tgi_server.rope.table import IntArray
from tgi_server.shard.parameters import Parameters
from tgi_server.shard.sampler import Watermark
from tgi_server.types import SamplingParams


def rows_of(
    params: Sequence[SamplingParams], texts: Sequence[Sequence[int] | IntArray], prompts: Sequence[int] | None = None,
    allowed: Mapping[int, Tensor] | None = None, watermark: Watermark | None = None,
) -> SamplingRows:  # fmt: skip
    """Row i gets the token after `texts[i]`, whose first `prompts[i]` are the prompt; `allowed[i]` are bools."""
    marks, parameters, index = watermark or Watermark(), Parameters(len(params)), np.arange(len(params))
    known = np.array([*map(len, texts)])
    matrix = np.full((len(params), known.max() + 1), -1)
    for row, (p, text) in enumerate(zip(params, texts, strict=True)):
        parameters.put(row, p, prompts[row] if prompts else 0)
        matrix[row, : len(text)] = text
    records = parameters.records(index, known, matrix[index, known - 1])
    masks = None
    if allowed:
        records["guide"][[*allowed]] = range(len(allowed))
        masks = packed(torch.stack([*allowed.values()]))
    return SamplingRows(records, matrix, marks.gamma, marks.delta, parameters.bias(index), masks)


def packed(masks: Tensor) -> Tensor:
    """Bools `[masks, vocabulary]` as the words of `kernels.sampling.Masks`; bits behind the last token are set."""
    count, size = masks.shape
    bits = np.ones((count, -(-size // 32) * 32), np.uint8)
    bits[:, :size] = masks.numpy()
    return torch.from_numpy(np.packbits(bits, axis=1, bitorder="little").view(np.int32))
