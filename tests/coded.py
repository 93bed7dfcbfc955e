"""Random weights of codes in groups of inputs, in tests of kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from tgi_server.kernels.formats import Format, Grouped


def side_by_side(inputs: int, size: int) -> Tensor:
    """The group of each input where groups of `size` follow one another; -1 for a single one."""
    return torch.arange(inputs) // (size if size > 0 else inputs)


def grouped(
    kind: type[Grouped], outputs: int, groups: Tensor, bits: int = 4, offset: bool = False, book: bool = False
) -> Grouped:
    """A weight whose results are around 1."""
    inputs, count = len(groups), int(groups.max()) + 1
    most = {4: 8, 8: 128}[bits]
    return kind(
        torch.randint(0, 256, (outputs, inputs * bits // 8), dtype=torch.uint8),
        (torch.rand(outputs, count) + 0.5) / (most * inputs**0.5),
        torch.randint(1 - most, most, (outputs, count)).float() if offset else None,
        groups,
        torch.randn(16).sort().values * 4 if book else None,
    )


def exact(weight: Format, x: Tensor) -> Tensor:
    """What a kernel has to compute, in float64."""
    return weight.seen(x.float()).double() @ weight.widened(torch.float64).T
