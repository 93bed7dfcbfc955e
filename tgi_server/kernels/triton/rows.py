"""The Triton kernels' rows of the kernel table; triton is imported when one of them is chosen."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tgi_server.kernels.formats import Dense, Grouped, GroupedByteInputs, Int8, Int8Outlier
from tgi_server.kernels.row import Kernel, Needs

WIDEST = 256
"""Widest head whose tiles fit in shared memory."""


def attention_unsupported(needs: Needs) -> list[str]:
    """Which widths of a head the attention kernels cannot take."""
    reasons = []
    for name, width in (("keys", needs.key_width), ("values", needs.value_width)):
        if width > WIDEST:
            reasons.append(f"{name} of {width} numbers are wider than {WIDEST}")
        if width % 8:
            reasons.append(f"the width of {name}, {width}, is not a multiple of 8")
    return reasons


def _one_of(*formats: type) -> Callable[[Needs], list[str]]:
    """Exactly: a subclass has another product."""

    def unsupported(needs: Needs) -> list[str]:
        name, names = getattr(needs.format, "__name__", "others"), ", ".join(format.__name__ for format in formats)
        return [] if needs.format in formats else [f"it multiplies {names}, not {name}"]

    return unsupported


def _loader(module: str, function: str) -> Callable[[], Callable[..., Any]]:
    def load() -> Callable[..., Any]:
        loaded: Callable[..., Any] = getattr(import_module(f"{__package__}.{module}"), function)
        return loaded

    return load


ROWS = [
    Kernel("add_norm", "triton", _loader("norm", "add_norm"), recorder="graphs"),
    Kernel("mean_squares", "triton", _loader("norm", "mean_squares"), recorder="graphs"),
    Kernel("rotate_store", "triton", _loader("rotary", "rotate_store"), recorder="graphs"),
    Kernel("gate", "triton", _loader("gating", "gate"), recorder="graphs"),
    Kernel("attention", "triton", _loader("attention", "attention"), attention_unsupported, recorder="graphs"),
    Kernel("convolve", "triton", _loader("recurrent", "convolve"), recorder="graphs"),
    Kernel("scan", "triton", _loader("recurrent", "scan"), recorder="graphs"),
    Kernel(
        "linear",
        "triton",
        _loader("linear", "linear"),
        _one_of(Int8, Int8Outlier, Grouped, GroupedByteInputs),
        recorder="graphs",
    ),
    Kernel("experts", "triton", _loader("experts", "experts"), _one_of(Dense, Int8, Grouped), recorder="graphs"),
    Kernel("sample", "triton", _loader("sampling", "sample"), recorder="graphs"),
]
