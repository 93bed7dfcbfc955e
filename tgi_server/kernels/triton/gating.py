"""The non-linearity of an MLP and its gate (arXiv:2002.05202)."""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from tgi_server.kernels.operations import FREE, Activation, Clamp

BLOCK = 1024
_SILU, _GELU, _GELU_TANH = (
    tl.constexpr(int(kind)) for kind in (Activation.SILU, Activation.GELU, Activation.GELU_TANH)
)
_SQRT_HALF = tl.constexpr(math.sqrt(0.5))
_TWICE_SQRT_2_PI = tl.constexpr(2 * math.sqrt(2 / math.pi))


@triton.jit
def _sigmoid(x):
    power = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x < 0, power, 1.0) / (1.0 + power)


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == _SILU:
        y = x * _sigmoid(x)
    elif ACTIVATION == _GELU:
        y = 0.5 * x * (1.0 + tl.erf(x * _SQRT_HALF))
    elif ACTIVATION == _GELU_TANH:
        y = x * _sigmoid((x + 0.044715 * x * x * x) * _TWICE_SQRT_2_PI)  # (1 + tanh(u)) / 2 = sigmoid(2u)
    else:
        y = tl.maximum(x, 0.0)
    return y


@triton.jit
def _gate(
    x, out, inner, slope, limit, offset, ACTIVATION: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program a row and BLOCK columns."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < inner
    source = x + row * inner * (2 if GATED else 1) + columns
    result = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        result = tl.where(result > limit, limit, result)
        up = tl.load(source + inner, mask=inside, other=0.0).to(tl.float32)
        up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
        result = _activated(result * slope, ACTIVATION) / slope * (up + offset)
    else:
        result = _activated(result, ACTIVATION)
    tl.store(out + row * inner + columns, result.to(out.dtype.element_ty), mask=inside)


def gate(x: Tensor, activation: Activation, gated: bool = True, clamp: Clamp = FREE) -> Tensor:
    """The operation `gate`, computed in float32."""
    rows, inner = x.shape[0], x.shape[1] // (2 if gated else 1)
    out = x.new_empty(rows, inner)
    _gate[(rows, triton.cdiv(inner, BLOCK))](
        x, out, inner, clamp.slope, clamp.limit, clamp.offset, ACTIVATION=int(activation), GATED=gated, BLOCK=BLOCK
    )
    return out
