"""The two layouts against their definitions, number by number, and there and back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tgi_server.compress import packing
from tgi_server.compress.rounding import Rounded

OUT, IN, SIZE = 32, 64, 32


def layer(bits: int, least_zero: int = 0) -> Rounded:
    torch.manual_seed(bits)
    most = 2**bits
    codes = torch.randint(0, most, (OUT, IN), dtype=torch.uint8)
    zero = torch.randint(least_zero, most, (OUT, IN // SIZE)).float()
    scale = torch.rand(OUT, IN // SIZE).half().float()
    return Rounded(codes, scale, zero, torch.randperm(IN) // SIZE)


def stream(words: Tensor, bits: int) -> list[int]:
    """The codes in a column of words, which is one number whose lowest bits come first."""
    number = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words.tolist()))
    return [number >> (bits * place) & (2**bits - 1) for place in range(32 * len(words) // bits)]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(bits: int) -> None:
    own = layer(bits, least_zero=1)
    made = packing.gptq(own, bits)
    assert made["qweight"].shape == (IN * bits // 32, OUT) and made["qweight"].dtype == torch.int32
    assert made["qzeros"].shape == (IN // SIZE, OUT * bits // 32) and made["qzeros"].dtype == torch.int32
    assert (made["scales"].dtype, made["g_idx"].dtype) == (torch.float16, torch.int32)
    for output in range(OUT):
        assert stream(made["qweight"][:, output], bits) == own.codes[output].tolist()
    for group in range(IN // SIZE):
        assert stream(made["qzeros"][group], bits) == (own.zero[:, group] - 1).int().tolist()
    assert torch.equal(made["scales"].float(), own.scale.t()) and torch.equal(made["g_idx"].long(), own.groups)


def test_the_words_of_3_bits_are_those_of_autogptq() -> None:
    """32 codes in three words: ten, then the 11th over two words, ten, the 22nd over two words, ten."""
    codes = torch.arange(32).remainder(8)
    first, second, third = (int(word) & 0xFFFFFFFF for word in packing.words(codes.unsqueeze(1), 3).flatten())
    c = codes.tolist()
    assert first == sum(c[i] << 3 * i for i in range(10)) | (c[10] & 3) << 30
    assert second == c[10] >> 2 | sum(c[11 + i] << 3 * i + 1 for i in range(10)) | (c[21] & 1) << 31
    assert third == c[21] >> 1 | sum(c[22 + i] << 3 * i + 2 for i in range(10))


def test_awq() -> None:
    own = layer(4)
    made = packing.awq(own)
    assert made["qweight"].shape == (IN, OUT // 8) and made["qzeros"].shape == (IN // SIZE, OUT // 8)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    for name, codes in (("qweight", own.codes.t()), ("qzeros", own.zero.t())):
        assert made[name].dtype == torch.int32
        for row in range(len(codes)):
            for word in range(OUT // 8):
                held = stream(made[name][row, word : word + 1], 4)
                assert held == [int(codes[row, 8 * word + output]) for output in order]
    assert torch.equal(made["scales"].float(), own.scale.t())
