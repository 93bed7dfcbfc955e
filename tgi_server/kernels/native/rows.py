"""The compiled kernels' rows of the table. Importing this compiles nothing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tgi_server.kernels.formats import Dense, Grouped, GroupedByteInputs, Int8, Int8Outlier
from tgi_server.kernels.native.layout import WIDEST
from tgi_server.kernels.row import Kernel, Needs, Operation, nothing

_LANES = 16  # numbers in a vector
_UNIT = 4  # bytes of a row of inputs that a product takes at a time
_CODED = (Grouped, GroupedByteInputs, Int8Outlier)


def _row(operation: Operation, module: str, unsupported: Callable[[Needs], list[str]] = nothing) -> Kernel:
    def load() -> Callable[..., Any]:
        return getattr(import_module(f"tgi_server.kernels.native.{module}"), operation)  # type: ignore[no-any-return]

    detail = _matrix_unit if module in ("linear", "experts") else None
    return Kernel(operation, "native", load, unsupported, "calls", detail, streams=module == "linear")


def _matrix_unit() -> str:
    from tgi_server.kernels.native.build import matrix_unit  # which the library has to be there for

    return matrix_unit()


def _attention_reasons(needs: Needs) -> list[str]:
    widths = {"keys": needs.key_width, "values": needs.value_width}
    return [
        f"heads of {name} are {width} wide, not a multiple of {_LANES} up to {WIDEST}"
        for name, width in widths.items()
        if width % _LANES or not 0 < width <= WIDEST
    ]


def _head_reasons(needs: Needs) -> list[str]:
    odd = needs.inputs * needs.dtype.itemsize % _UNIT
    return [f"{needs.inputs} inputs of a layer, an odd number"] if odd else []


def _linear_reasons(needs: Needs) -> list[str]:
    if needs.format in _CODED:
        return []  # quads of inputs are filled up
    if needs.format not in (Dense, Int8):  # a subclass has products of its own
        return [f"it knows the formats of this program, not {getattr(needs.format, '__name__', 'others')}"]
    return _head_reasons(needs)


ROWS = [
    _row("add_norm", "operations"),
    _row("mean_squares", "operations"),
    _row("rotate_store", "operations"),
    _row("gate", "operations"),
    _row("attention", "attention", _attention_reasons),
    _row("convolve", "recurrent"),
    _row("scan", "recurrent"),
    _row("linear", "linear", _linear_reasons),
    _row("experts", "experts", _linear_reasons),
    _row("head", "linear", _head_reasons),
    _row("sample", "operations"),
]
