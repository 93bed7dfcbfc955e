"""Codes as the two file formats keep them."""

from __future__ import annotations

from math import lcm

import torch
from torch import Tensor

from tgi_server.compress.rounding import Rounded
from tgi_server.quantize.packed.words import AWQ_ORDER

WORD = 32


def words(codes: Tensor, bits: int) -> Tensor:
    """Codes `[n, m]` as int32 `[n * bits / 32, m]`: along the first axis, one after the other from the lowest bit on.

    A code of 3 bits may lie in two words.
    """
    period = lcm(bits, WORD)
    count, length = period // bits, period // WORD
    codes = codes.long().reshape(-1, count, codes.shape[1])
    found = torch.zeros(len(codes), length, codes.shape[2], dtype=torch.int64, device=codes.device)
    for number in range(count):
        word, shift = divmod(number * bits, WORD)
        found[:, word] |= codes[:, number] << shift
        if shift + bits > WORD:
            found[:, word + 1] |= codes[:, number] >> (WORD - shift)
    return (found << WORD >> WORD).to(torch.int32).flatten(0, 1)


def gptq(layer: Rounded, bits: int) -> dict[str, Tensor]:
    """The tensors of a layer in the format `gptq` (its first version, which stores zero points less 1).

    `qweight` int32 `[in * bits / 32, out]`, `qzeros` int32 `[groups, out * bits / 32]`, `scales` float16
    `[groups, out]`, `g_idx` int32 `[in]`.
    """
    return {
        "qweight": words(layer.codes.t(), bits),
        "qzeros": words(layer.zero.round().long() - 1, bits).t().contiguous(),
        "scales": layer.scale.t().to(torch.float16).contiguous(),
        "g_idx": layer.groups.to(torch.int32),
    }


def awq(layer: Rounded) -> dict[str, Tensor]:
    """The tensors of a layer in the format of AWQ's GEMM kernels.

    `qweight` int32 `[in, out / 8]`, `qzeros` int32 `[groups, out / 8]`, `scales` float16 `[groups, out]`.
    """
    return {
        "qweight": _interleaved(layer.codes),
        "qzeros": _interleaved(layer.zero.round()),
        "scales": layer.scale.t().to(torch.float16).contiguous(),
    }


def _interleaved(codes: Tensor) -> Tensor:
    """Codes of 4 bits `[out, n]` as int32 `[n, out / 8]`."""
    mixed = codes.long().reshape(-1, len(AWQ_ORDER), codes.shape[1])[:, AWQ_ORDER].flatten(0, 1)
    return words(mixed, 4).t().contiguous()
