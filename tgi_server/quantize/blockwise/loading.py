"""Float weights to 4-bit codes in blocks, while they load. Stdlib only until something is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgi_server.quantize.base import WHOLE, Axis, Cut, Stored

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format


@dataclass(frozen=True, slots=True)
class Rounding:
    """Every rank is given whole layers, as the statistics of a part are not those of the whole; it rounds its part.

    Attributes:
        book: the number of each code.
        block: weights that share a scale.
        compress: whether scales have the values of 8 bits.
        byte_inputs: whether inputs are to be rounded to 8 bits, too.
    """

    book: tuple[float, ...]
    block: int
    compress: bool
    byte_inputs: bool

    @property
    def weight_bytes(self) -> float:
        """A code, and its part of a scale."""
        return 0.5 + 4 / self.block

    def stored(self) -> Mapping[str, Stored]:
        """The checkpoint's own `weight`, all of it, as it is there."""
        return {"weight": Stored((Axis("out", cut=False), Axis("in", cut=False)), exact=True)}

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        """See `Reader`. Blocks run along an output's inputs; where these are no whole number of blocks, its last block
        is shorter, while those of the package run on into the next output."""
        import torch

        from tgi_server.quantize.blockwise import numbers
        from tgi_server.quantize.blockwise.layers import layer

        weight = tensors["weight"]
        most = numbers.largest(weight, self.block)
        if not bool(most.isfinite().all()):
            raise ValueError("some of its weights are no numbers")
        book = torch.tensor(self.book, device=weight.device)
        codes = numbers.codes(weight, most, self.block, book, cut)
        scale = numbers.compressed(most) if self.compress else most
        return layer(codes, scale, self.block, weight.shape[1], book, cut, self.byte_inputs)
