"""The three ways in which checkpoints pack whole numbers of a few bits into int32, each a reader of layers.

All of them mean weights `(number - zero) * scale`, with a scale and a zero for each group of inputs of an output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, ClassVar

from tgi_server.quantize.base import OUT, WHOLE, Activations, Axis, Cut, Stored

if TYPE_CHECKING:
    from torch import Tensor

    from tgi_server.kernels.formats import Format

_ALL = 1 << 40
"""More inputs than any layer has."""


@dataclass(frozen=True)
class Packed(ABC):
    """Layers of one checkpoint.

    Attributes:
        bits: of a number: 2, 3, 4 or 8.
        group_size: inputs that have a scale in common, -1 for all.
        asymmetric: whether zeros differ, as far as is known; where they do not, kernels need none.
        activations: as the operator wants them.
        index: the suffix of the tensor that names the groups, where a layer may have one.
    """

    bits: int
    group_size: int
    asymmetric: bool
    activations: Activations
    index: ClassVar[str] = ""
    weight_bytes: ClassVar[float | None] = None

    @abstractmethod
    def stored(self) -> Mapping[str, Stored]:
        """See `Reader`."""

    @abstractmethod
    def codes(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Those of `Grouped`, of this rank's part; at the end perhaps some more."""

    @abstractmethod
    def scale(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """`[out, groups]`."""

    @abstractmethod
    def zero(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """Uint8 `[all outputs, groups]`; None for `2^bits / 2`."""

    def order(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """The group of every input; None where they lie side by side."""
        found = tensors.get(self.index)
        return found if found is not None and len(found) else None

    def inputs(self, tensors: Mapping[str, Tensor], most: int) -> int:
        """Of the layer that is read whole, of whose inputs there is room for `most`."""
        order = self.order(tensors)
        return most if order is None else min(most, len(order))

    def read(self, tensors: Mapping[str, Tensor], cut: Cut = WHOLE) -> Format:
        """See `Reader`."""
        from tgi_server.kernels.formats import Grouped, GroupedByteInputs
        from tgi_server.quantize.packed import words

        kind = GroupedByteInputs if self.activations is Activations.int8 else Grouped
        codes, scale, zero = self.codes(tensors), self.scale(tensors), self.zero(tensors)
        numbers = 1 if self.bits == 8 else 2  # in a byte
        pieces = cut.inputs if cut.inputs is not None else ((0, self.inputs(tensors, codes.shape[1] * numbers)),)
        groups = words.groups_of(self.order(tensors), self.group_size, scale.shape[1], pieces)
        if len(groups) % numbers:
            raise ValueError(f"{len(groups)} inputs do not fill whole bytes")
        codes = codes[:, : len(groups) // numbers].contiguous()
        offset = None
        if zero is not None:
            offset = (1 << self.bits - 1) - words.taken(zero[: self._outputs(cut, len(scale))], cut.outputs).short()
        return words.grouped(kind, codes, scale, offset, groups, self.asymmetric)

    def _outputs(self, cut: Cut, outputs: int) -> int:
        """Of the layer: packed zeros may be some more."""
        return outputs if cut.outputs is None else max((last for _, last in cut.outputs), default=0)

    @property
    def _groups(self) -> Axis:
        return Axis("in", self.group_size if self.group_size > 0 else _ALL, cut=False)

    def _packed(self, of: str, cut: bool = True) -> Axis:
        """An axis of whole numbers in int32, of which as few share words as can be."""
        common = gcd(self.bits, 32)
        return Axis("out" if of == "out" else "in", 32 // common, self.bits // common, cut)


_ORDER = Stored((Axis("in", cut=False),), ("I32", "I64"), optional=True, empty=True)


@dataclass(frozen=True)
class GptqLayout(Packed):
    """AutoGPTQ's: numbers packed along the inputs, zeros along the outputs.

    Attributes:
        less: what stored zeros are less than the zeros: 1, or 0 in the format `gptq_v2`.
        borrowed: whether the 1 was taken from whole words, so that a zero of 0 took what it lacks from its neighbour.
        ordered: whether groups are not side by side for sure, so that every layer needs the tensor that names them.
    """

    less: int
    borrowed: bool = False
    ordered: bool = False
    index = "g_idx"

    def stored(self) -> Mapping[str, Stored]:
        """See `Reader`."""
        return {
            "qweight": Stored((self._packed("in"), OUT), ("I32",)),
            "qzeros": Stored((self._groups, self._packed("out", cut=False)), ("I32",)),
            "scales": Stored((self._groups, OUT), exact=True),
            "g_idx": replace(_ORDER, optional=not self.ordered, empty=not self.ordered),
        }

    def codes(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """See `Packed`."""
        from tgi_server.quantize.packed.words import codes

        return codes(tensors["qweight"].t(), self.bits)

    def scale(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """See `Packed`."""
        return tensors["scales"].t()

    def zero(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """See `Packed`. A zero of 0, of which -1 is stored, is 0 again."""
        from tgi_server.quantize.packed.words import given_back, numbers

        if self.borrowed:
            return numbers(given_back(tensors["qzeros"], self.bits), self.bits).t()
        return (numbers(tensors["qzeros"], self.bits) + self.less & (1 << self.bits) - 1).t()


@dataclass(frozen=True)
class AwqLayout(Packed):
    """AutoAWQ's `gemm`: numbers and zeros of 4 bits packed along the outputs, in an order of their own."""

    def stored(self) -> Mapping[str, Stored]:
        """See `Reader`."""
        return {
            "qweight": Stored((Axis("in"), self._packed("out")), ("I32",)),
            "qzeros": Stored((self._groups, self._packed("out", cut=False)), ("I32",)),
            "scales": Stored((self._groups, OUT), exact=True),
        }

    def codes(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """See `Packed`."""
        from tgi_server.quantize.packed.words import awq_codes

        return awq_codes(tensors["qweight"])[: tensors["scales"].shape[1]]

    def scale(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """See `Packed`."""
        return tensors["scales"].t()

    def zero(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """See `Packed`."""
        from tgi_server.quantize.packed.words import awq_numbers

        return awq_numbers(tensors["qzeros"]).t()


@dataclass(frozen=True)
class CompressedLayout(Packed):
    """compressed-tensors' `pack-quantized`: numbers packed along the inputs of each output, zeros along the outputs.

    Attributes:
        ordered: whether inputs are in the groups that a tensor names.
    """

    ordered: bool
    index = "weight_g_idx"

    def stored(self) -> Mapping[str, Stored]:
        """See `Reader`."""
        zeros = {"weight_zero_point": Stored((self._packed("out", cut=False), self._groups), ("I32",))}
        return {
            "weight_packed": Stored((OUT, self._packed("in")), ("I32",)),
            "weight_scale": Stored((OUT, self._groups), exact=True),
            **(zeros if self.asymmetric else {}),
            "weight_g_idx": Stored(_ORDER.axes, _ORDER.types, optional=not self.ordered, empty=True),
            "weight_shape": Stored((Axis(None),), ("I32", "I64"), optional=True),
        }

    def codes(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """See `Packed`."""
        from tgi_server.quantize.packed.words import codes

        return codes(tensors["weight_packed"], self.bits)

    def scale(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """See `Packed`."""
        return tensors["weight_scale"]

    def zero(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """See `Packed`. Numbers and zeros are both stored `2^bits / 2` larger than they are."""
        from tgi_server.quantize.packed.words import numbers

        found = tensors.get("weight_zero_point")
        return None if found is None else numbers(found.t(), self.bits).t()

    def inputs(self, tensors: Mapping[str, Tensor], most: int) -> int:
        """See `Packed`."""
        shape = tensors.get("weight_shape")
        if shape is None:
            return super().inputs(tensors, most)
        said, numbers = shape.tolist(), 32 // gcd(self.bits, 32)
        if len(said) != 2 or not most - numbers < said[1] <= most:
            raise ValueError(f"its weight_shape is {said}; its weight_packed holds {most} inputs")
        return super().inputs(tensors, said[1])
