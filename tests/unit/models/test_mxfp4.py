from __future__ import annotations

import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tgi_server.models import mxfp4


def test_every_code_and_power() -> None:
    """As the specification has it: sign, two bits of exponent, one of mantissa; the low half of a byte comes first."""
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    scales = torch.tensor([[127, 128, 120, 1, 254, 0, 100, 150] * 2], dtype=torch.uint8)
    got = mxfp4.widened(blocks, scales)
    for place, number in enumerate(got[0].tolist()):
        byte, power = place // 2, int(scales[0, place // 32]) - 127
        code = byte & 15 if place % 2 == 0 else byte >> 4
        exponent, mantissa = code >> 1 & 3, code & 1
        size = mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
        exact = torch.tensor((-1.0 if code & 8 else 1.0) * size * 2.0**power, dtype=torch.float64)
        assert number == exact.bfloat16().item(), (code, power)


def test_what_transformers_reads() -> None:
    torch.manual_seed(0)
    blocks = torch.randint(0, 256, (3, 10, 4, 16), dtype=torch.uint8)
    scales = torch.randint(110, 140, (3, 10, 4), dtype=torch.uint8)
    theirs = convert_moe_packed_tensors(blocks, scales)
    for expert in range(3):
        assert torch.equal(mxfp4.widened(blocks[expert], scales[expert]), theirs[expert].T)
