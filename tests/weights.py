"""Random weights in tests of kernels, whose products with inputs around 1 are around 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tgi_server.kernels.formats import Grouped, GroupedByteInputs, Int8Outlier, packed


@dataclass(frozen=True, slots=True)
class Codes:
    """How `formats.Grouped` keeps weights.

    Attributes:
        bits: of a code.
        size: of a group; 0 for one of all inputs.
        offset: whether groups have one.
        book: whether codes are looked up.
        order: in which inputs make groups: as they lie, "permuted", or, of groups of different sizes, "a part" of more
            inputs that were, as a rank has it.
        byte_inputs: whether inputs have 8 bits too.
    """

    bits: int = 4
    size: int = 64
    offset: bool = False
    book: bool = False
    order: str = ""
    byte_inputs: bool = False

    def weight(self, outputs: int, inputs: int) -> Grouped:
        """`[out, in]`."""
        groups = torch.arange(2 * inputs if self.order == "a part" else inputs) // (self.size or 2 * inputs)
        if self.order:
            groups = groups[torch.randperm(len(groups))][:inputs]
        count, half = int(groups.max()) + 1, 2 ** (self.bits - 1)
        codes = torch.randint(0, 2 * half, (outputs, inputs))
        scale = (torch.rand(outputs, count) + 0.5) / inputs**0.5 / (1 if self.book else half)
        offset = torch.randint(-half, half + 1, (outputs, count)).float() if self.offset else None
        book = torch.linspace(-2, 2, 16) ** 3 / 4 if self.book else None
        kind = GroupedByteInputs if self.byte_inputs else Grouped
        return kind(packed(codes) if self.bits == 4 else codes.to(torch.uint8), scale, offset, groups, book)


KINDS = (
    Codes(offset=True),
    Codes(size=32),
    Codes(size=0, offset=True),
    Codes(size=40, offset=True),
    Codes(size=64, book=True),
    Codes(bits=8, size=128, offset=True),
    Codes(bits=8, size=32),
    Codes(offset=True, order="permuted"),
    Codes(offset=True, order="a part"),
    Codes(size=32, order="a part", book=True),
    Codes(bits=8, offset=True, order="a part"),
)
"""With all that makes another layout or product."""


def int8_outlier(outputs: int, inputs: int) -> Int8Outlier:
    """With the threshold of LLM.int8."""
    steps = torch.randint(-127, 128, (outputs, inputs)).to(torch.int8)
    return Int8Outlier(steps, torch.rand(outputs) / (127 * inputs**0.5), 6.0)
