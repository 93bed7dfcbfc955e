"""What a quantisation method owes the loader: which tensors a linear layer stores, and how to read them.

A method is a small dataclass whose fields are its YAML; it imports torch inside its methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a linear layer in a checkpoint. Those of whole numbers keep their dtype.

    Attributes:
        axes: what each axis runs over: `out`, `in`, or anything else that is never cut (a table that all share).
        numbers: how many outputs or inputs one element of each axis stands for: 8 where eight 4-bit codes share an
            int32, the size of a group where an element belongs to one. The loader cuts at whole elements only.
        exact: whether floats keep their dtype too, instead of taking the serving dtype.
    """

    axes: tuple[str, ...] = ("out", "in")
    numbers: tuple[int, ...] = (1, 1)
    exact: bool = False


PLAIN: Mapping[str, Stored] = {"weight": Stored()}
"""Of a checkpoint that is not quantised. The loader gives such a matrix as `[out, in]` however it is stored."""


def together(stored: Mapping[str, Stored]) -> tuple[int, int]:
    """How many outputs, and how many inputs of a layer no cut may part."""
    numbers = [pair for one in stored.values() for pair in zip(one.axes, one.numbers, strict=True)]
    outputs, inputs = (lcm(*(number for axis, number in numbers if axis == which)) for which in ("out", "in"))
    return outputs, inputs


class QuantizeMethod(Protocol):
    """A way to store the weights of the linear layers."""

    def stored(self) -> Mapping[str, Stored]:
        """The tensors of a layer by the suffix of their names. The loader cuts and joins along their axes."""
        ...

    def read(self, tensors: Mapping[str, Tensor]) -> Format:
        """The format that kernels take, of this rank's part of these tensors."""
        ...
