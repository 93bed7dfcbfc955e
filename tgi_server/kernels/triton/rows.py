"""The Triton kernels' rows of the kernel table; triton is imported when one of them is chosen."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tgi_server.kernels.formats import Dense, Int8
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


def _only_int8(needs: Needs) -> list[str]:
    """A subclass asks for more than this product."""
    return [] if needs.format is Int8 else [f"it multiplies 8-bit weights, not {getattr(needs.format, '__name__', '')}"]


def _dense_or_int8(needs: Needs) -> list[str]:
    name = getattr(needs.format, "__name__", "")
    return [] if needs.format in (Dense, Int8) else [f"it multiplies dense and 8-bit weights, not {name}"]


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
    Kernel("linear", "triton", _loader("linear", "linear"), _only_int8, recorder="graphs"),
    Kernel("experts", "triton", _loader("experts", "experts"), _dense_or_int8, recorder="graphs"),
    Kernel("choose", "triton", _loader("sampling", "choose"), recorder="graphs"),
]
