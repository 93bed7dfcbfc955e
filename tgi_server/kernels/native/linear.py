"""Linear layers over the compiled product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tgi_server.kernels.formats import Dense, Format, Int8
from tgi_server.kernels.native.calls import call, empty
from tgi_server.kernels.native.coded import CodedLayers, is_coded
from tgi_server.kernels.native.layout import NAMES, PANEL
from tgi_server.kernels.streamed import Streamed


class NativeLinear:
    """`x @ weight.T * scale + bias`, summed in float32.

    Args:
        weight: `Dense` in the dtype of the inputs (float32 or bfloat16), or `Int8`; kept in another order.
        dtype: of the inputs.
        bias: `[out]`, or none.
        result: dtype of the outputs; that of the inputs, or float32.
    """

    def __init__(
        self, weight: Format | Streamed, dtype: torch.dtype, bias: Tensor | None = None,
        result: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        packed = pack(weight if isinstance(weight, Streamed) else Streamed.of(weight), dtype)
        self._packed, self._scale = packed.panels, packed.scale
        self._outer, self._inner = packed.outputs, packed.inputs
        self._bias = None if bias is None else bias.float()
        self._result = result or dtype
        self._name = f"linear_{NAMES[dtype]}_{NAMES[packed.panels.dtype]}_{NAMES[self._result]}"
        self._dtype = dtype

    def __call__(self, x: Tensor) -> Tensor:
        """`[rows, in]` to `[rows, out]`."""
        rows, inner = x.shape
        if inner != self._inner or x.dtype != self._dtype:
            raise ValueError(f"{inner} inputs in {x.dtype} for a layer of {self._inner} in {self._dtype}")
        out = empty((rows, self._outer), self._result)
        work = rows * self._packed.numel()
        call(self._name, work, x, self._packed, self._scale, self._bias, out, rows, inner, self._outer)
        return out

    def vectors(self, outputs: Tensor) -> Tensor:
        """The weights of some outputs (int64 `[n]`), `[n, in]`."""
        return self._packed[outputs // PANEL, :, outputs % PANEL].view(len(outputs), self._inner)


def linear(weight: Format | Streamed, bias: Tensor | None, dtype: torch.dtype) -> NativeLinear | CodedLayers:
    """See `kernels.plain.linear`; dense weights are in `dtype`."""
    if not is_coded(weight.sample() if isinstance(weight, Streamed) else weight):
        return NativeLinear(weight, dtype, bias)
    layer = CodedLayers(dtype)
    layer.put(weight, bias)
    return layer


def head(weight: Tensor | Streamed) -> NativeLinear:
    """See `kernels.plain.head`. The sums are float32, so that no score has to be computed again."""
    whole = weight if isinstance(weight, Streamed) else Streamed.of(Dense(weight))
    sample = whole.sample()
    assert isinstance(sample, Dense)
    return NativeLinear(whole, sample.weight.dtype, result=torch.float32)


def per_unit(dtype: torch.dtype) -> int:
    """Inputs of `dtype` in the 32 bits that a product takes at a time."""
    return 4 // dtype.itemsize


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight as the kernel reads it.

    Attributes:
        panels: of 32 outputs, the last one padded: `[panels, units, 32, inputs a unit]`. A panel has for every 32 bits
            of the input (a float, or two bfloat16) those weights of each output: 16 units of half a panel are a matrix
            that a tile register loads.
        scale: float32 `[out]`, or none.
        outputs, inputs: of the layer.
    """

    panels: Tensor
    scale: Tensor | None
    outputs: int
    inputs: int


def pack(weight: Streamed, dtype: torch.dtype) -> Packed:
    """A weight packed for inputs of `dtype`; raises ValueError when the inputs do not fill units of 32 bits."""
    sample = weight.sample()
    unit = per_unit(dtype)
    if sample.inputs % unit:
        raise ValueError(f"{sample.inputs} inputs do not make whole units of {unit}")
    units, kept = sample.inputs // unit, torch.int8 if isinstance(sample, Int8) else dtype
    panels = torch.empty((-(-weight.outputs // PANEL), units, PANEL, unit), dtype=kept)
    scale = torch.empty(weight.outputs) if isinstance(sample, Int8) else None

    def place(first: int, part: Format) -> None:
        if isinstance(part, Int8):
            assert scale is not None
            scale[first : first + len(part.scale)] = part.scale
        assert isinstance(part, Dense | Int8)
        rows = part.steps if isinstance(part, Int8) else part.weight
        if rows.dtype != kept:
            raise ValueError(f"weights in {rows.dtype} for inputs in {dtype}")
        call(f"pack_{8 * unit * kept.itemsize}", rows.numel(), rows, panels[first // PANEL :], len(rows), units)

    weight.each(place)
    return Packed(panels, scale, weight.outputs, sample.inputs)
