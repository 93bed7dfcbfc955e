"""Weights of four bits in blocks that share a power of two: MXFP4 of the OCP Microscaling Formats Specification 1.0.

Stdlib only, but for what widens them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32
"""Inputs that share a scale."""
BYTES = BLOCK // 2
_BIAS = 127
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Of the codes (E2M1: two bits of exponent, one of mantissa) below 8; from 8 on they are negative."""


def widened(blocks: Tensor, scales: Tensor) -> Tensor:
    """Codes `[out, groups, BYTES]` and scales `[out, groups]`, both uint8, as bfloat16 `[out, groups * BLOCK]`.

    Input 2i of a block is in the low half of byte i, input 2i + 1 in the high one; a scale is the exponent of a power
    of two, plus 127. The products are exact but where bfloat16 has no such small number.
    """
    import torch

    pairs = _pairs().index_select(0, blocks.flatten().int())
    numbers = pairs.view(torch.bfloat16).view(*scales.shape, BLOCK)
    powers = torch.ldexp(torch.ones(scales.shape), scales.int() - _BIAS).bfloat16()
    return numbers.mul_(powers.unsqueeze(-1)).flatten(-2)


@cache
def _pairs() -> Tensor:
    """The two numbers of each byte, side by side in an int32."""
    import torch

    book = torch.tensor([*_MAGNITUDES, *(-number for number in _MAGNITUDES)], dtype=torch.bfloat16)
    codes = torch.arange(256)
    return torch.stack((book[codes & 15], book[codes >> 4]), dim=1).view(torch.int32).flatten()
