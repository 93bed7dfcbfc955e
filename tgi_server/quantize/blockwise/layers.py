"""A rank's part of a layer out of codes and the scales of blocks."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from tgi_server.kernels.formats import Dense, Format, Grouped, GroupedByteInputs
from tgi_server.quantize.base import Cut
from tgi_server.quantize.blockwise.numbers import positions

SHORTEST = 16
"""Inputs that have to share a scale: with fewer, scales take more memory than they save."""
log = logging.getLogger(__name__)


def layer(codes: Tensor, scale: Tensor, block: int, inputs: int, book: Tensor, cut: Cut, byte_inputs: bool) -> Format:
    """The format that kernels take.

    Args:
        codes: of what is cut, as `numbers.codes` gives them.
        scale: float32 `[out, blocks]`, of the whole layer.
        block: inputs that share a scale.
        inputs: of the whole layer.
        book: the number of each code.
        cut: the rank's part.
        byte_inputs: whether inputs are to be rounded to 8 bits, too.
    """
    used, groups = torch.unique(positions(cut.inputs or ((0, inputs),)) // block, return_inverse=True)
    if cut.outputs is not None:
        scale = scale[positions(cut.outputs).to(scale.device)]
    if cut.inputs is not None:
        scale = scale[:, used.to(scale.device)]
    odd = 2 * codes.shape[1] - len(groups)
    groups = torch.cat((groups, groups[-1:]))[: len(groups) + odd].to(codes.device)
    made = (GroupedByteInputs if byte_inputs else Grouped)(codes, scale, None, groups, book)
    if not odd and block >= SHORTEST:
        return made
    log.warning("a layer of %d inputs with blocks of %d: it is kept as a plain matrix", inputs, block)
    return Dense(Grouped.widened(made, torch.float32)[:, : len(groups) - odd].contiguous())
