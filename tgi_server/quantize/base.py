"""What a quantisation method owes the loader: which tensors a linear layer stores, and how to read them.

A method is a small dataclass whose fields are its YAML. What it has to know of a checkpoint it is told once; it answers
with a reader. Stdlib only: readers import torch inside their methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from math import lcm
from typing import TYPE_CHECKING, Literal, Protocol

from tgi_server.quantize.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format

Span = tuple[int, int]
"""[first, last) of outputs or inputs."""
FLOATS = ("F16", "BF16", "F32", "F64")
"""Names of number formats in safetensors files."""


class Activations(Enum):
    """What the inputs of quantised layers are multiplied as: they are, or rounded to 8 bits."""

    exact = "exact"
    int8 = "int8"


ACTIVATIONS = (
    "What the inputs of quantised layers are multiplied as: exact, or int8, which rounds them to 8 bits, in the groups "
    "of the weights or a row at once where these have none: faster on CPUs, with an error of its own."
)
"""What the field says that methods have for it."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis of a stored tensor runs over.

    Attributes:
        of: `out` or `in`; `all` for all weights, output by output, which are not cut; None for anything else (a table
            that all share), of any length.
        numbers: how many outputs or inputs are kept together: 8 where eight 4-bit codes share an int32, the size of a
            group where an element belongs to one. The last ones may be fewer.
        elements: of the tensor, that keep them.
        cut: whether a rank reads its part only, at whole `numbers`; else the reader is given all of it.
    """

    of: Literal["out", "in", "all"] | None
    numbers: int = 1
    elements: int = 1
    cut: bool = True

    def length(self, outputs: int, inputs: int) -> int | None:
        """Of the axis, of a layer of this size; None for any."""
        if self.of is None:
            return None
        size = {"out": outputs, "in": inputs, "all": outputs * inputs}[self.of]
        return -(-size // self.numbers) * self.elements


OUT, IN = Axis("out"), Axis("in")


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a linear layer in a checkpoint. Those of whole numbers keep their dtype.

    Attributes:
        axes: one each.
        types: what its elements may be, as safetensors names them.
        exact: whether floats keep their dtype too, instead of taking the serving dtype.
        optional: whether a layer may lack it.
        empty: whether it may hold nothing, which is as good as lacking it.
    """

    axes: tuple[Axis, ...] = (OUT, IN)
    types: tuple[str, ...] = FLOATS
    exact: bool = False
    optional: bool = False
    empty: bool = False

    def fits(self, shape: tuple[int, ...], outputs: int, inputs: int) -> bool:
        """Whether the tensor of such a layer may have this shape."""
        if self.empty and shape == (0,):
            return True
        wanted = [axis.length(outputs, inputs) for axis in self.axes]
        return len(shape) == len(wanted) and all(size in (None, had) for size, had in zip(wanted, shape, strict=True))

    def shape(self, outputs: int, inputs: int) -> str:
        """The shape that fits, for people."""
        sizes = (axis.length(outputs, inputs) for axis in self.axes)
        return f"[{', '.join('any' if size is None else str(size) for size in sizes)}]"


PLAIN: Mapping[str, Stored] = {"weight": Stored()}
"""Of a layer that is not quantised. The loader gives such a matrix as `[out, in]` however it is stored."""


def marks(stored: Mapping[str, Stored]) -> list[str]:
    """The suffixes by which a quantised layer is told from a plain one; none where layers are quantised while they
    load."""
    return [suffix for suffix in stored if suffix not in PLAIN]


def together(stored: Mapping[str, Stored]) -> tuple[int, int]:
    """How many outputs, and how many inputs of a layer no cut may part."""

    def numbers(which: str) -> Iterator[int]:
        return (axis.numbers for one in stored.values() for axis in one.axes if axis.of == which and axis.cut)

    return lcm(*numbers("out")), lcm(*numbers("in"))


@dataclass(frozen=True, slots=True)
class Cut:
    """This rank's part of a layer, for tensors that are not cut before they are read: pieces of the outputs, or of the
    inputs, in their order; None for all."""

    outputs: tuple[Span, ...] | None = None
    inputs: tuple[Span, ...] | None = None


WHOLE = Cut()


class Reader(Protocol):
    """Reads layers of one checkpoint, or those that are quantised while they load."""

    @property
    def weight_bytes(self) -> float | None:
        """Bytes that a weight takes at least, of one quantised while it loads; None for those of the serving dtype."""
        ...

    def stored(self) -> Mapping[str, Stored]:
        """The tensors of a layer by the suffix of their names. The loader cuts them along their axes.

        A layer that has none of them, but a plain weight, is read as such.
        """
        ...

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        """The format that kernels take, of this rank's part of a layer; ValueError, for people, for bad numbers."""
        ...


class QuantizeMethod(Protocol):
    """A way to store the weights of the linear layers."""

    def reader(self, settings: Settings | None) -> Reader:
        """What reads a checkpoint that says this of itself; None where it says nothing.

        Raises:
            ConfigError: the method cannot read such a checkpoint; says which one does.
        """
        ...

    @classmethod
    def reads(cls, settings: Settings) -> bool:
        """Whether it is the method for a checkpoint that says this of itself."""
        ...


def remark_of(method: QuantizeMethod) -> str | None:
    """What who asks for a method is told, its `remark`; None for most."""
    return getattr(method, "remark", None)
