"""Linear layers over the compiled product."""

from __future__ import annotations

import torch
from torch import Tensor

from tgi_server.kernels.formats import Dense, Format, Int8
from tgi_server.kernels.native.calls import call, empty
from tgi_server.kernels.native.layout import NAMES, PANEL


class NativeLinear:
    """`x @ weight.T * scale + bias`, summed in float32.

    Args:
        weight: `[out, in]`, float32 or bfloat16 like the inputs, or int8; kept in another order.
        dtype: of the inputs.
        scale, bias: float32 `[out]`, or none.
        result: dtype of the outputs; that of the inputs, or float32.
    """

    def __init__(
        self, weight: Tensor, dtype: torch.dtype, scale: Tensor | None = None, bias: Tensor | None = None,
        result: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self._packed = pack(weight, dtype)
        self._outer, self._inner = weight.shape
        self._scale = scale
        self._bias = None if bias is None else bias.float()
        self._result = result or dtype
        self._name = f"linear_{NAMES[dtype]}_{NAMES[weight.dtype]}_{NAMES[self._result]}"
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


def linear(weight: Format, bias: Tensor | None, dtype: torch.dtype) -> NativeLinear:
    """See `kernels.plain.linear`; of dense weights in `dtype`, and 8-bit ones."""
    if isinstance(weight, Int8):
        return NativeLinear(weight.steps, dtype, weight.scale, bias)
    assert isinstance(weight, Dense)
    return NativeLinear(weight.weight, dtype, bias=bias)


def head(weight: Tensor) -> NativeLinear:
    """See `kernels.plain.head`. The sums are float32, so that no score has to be computed again."""
    return NativeLinear(weight, weight.dtype, result=torch.float32)


def per_unit(dtype: torch.dtype) -> int:
    """Inputs of `dtype` in the 32 bits that a product takes at a time."""
    return 4 // dtype.itemsize


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight [out, in]` in the order in which the kernel reads it for inputs of `dtype`; padded to whole panels.

    Panels of 32 outputs; in a panel, for every 32 bits of the input (a float, or two bfloat16) those weights of each
    output: 16 units of half a panel are a matrix that a tile register loads. Raises ValueError when the inputs do not
    fill these 32 bits.
    """
    outer, inner = weight.shape
    unit = per_unit(dtype)
    if inner % unit:
        raise ValueError(f"{inner} inputs do not make whole units of {unit}")
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -outer % PANEL))
    return padded.view(-1, PANEL, inner // unit, unit).transpose(1, 2).contiguous()
