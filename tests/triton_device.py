"""Where the Triton kernels run in tests: imported from here they are interpreted on a CPU, compiled on a GPU."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import tgi_server.kernels.triton as kernels

triton = pytest.importorskip("triton")
tl = importlib.import_module("triton.language")
InterpreterBuilder, TensorHandle, _get_np_dtype = (
    getattr(importlib.import_module("triton.runtime.interpreter"), name)
    for name in ("InterpreterBuilder", "TensorHandle", "_get_np_dtype")
)
_CAST, _DOT = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def interpreting() -> Iterator[None]:
    """Triton's interpreter is on, if there is no GPU, and does bfloat16 right."""
    with triton.knobs.runtime.scope(), pytest.MonkeyPatch.context() as patch:
        triton.knobs.runtime.interpret = DEVICE.type == "cpu"
        patch.setattr(InterpreterBuilder, "cast_impl", _cast)
        patch.setattr(InterpreterBuilder, "create_dot", _dot)
        yield


def _cast(self: Any, source: Any, to: Any) -> Any:
    """The interpreter knows no numbers in bfloat16 but their bits, which it takes for whole numbers."""
    if source.dtype.scalar == to.scalar == tl.bfloat16:
        return source
    if source.dtype.scalar == tl.bfloat16:
        return TensorHandle(_widened(source).astype(_get_np_dtype(to)), to.scalar)
    if to.scalar != tl.bfloat16:
        return _CAST(self, source, to)
    bits = np.ascontiguousarray(source.data, np.float32).view(np.uint32)
    nearest = bits + 0x7FFF + (bits >> 16 & 1)
    return TensorHandle((nearest >> 16).astype(np.uint16).reshape(np.shape(source.data)), tl.bfloat16)


def _dot(self: Any, a: Any, b: Any, sums: Any, precision: Any, most: Any) -> Any:
    a, b = (TensorHandle(_widened(x), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
    return _DOT(self, a, b, sums, precision, most)


def _widened(source: Any) -> Any:
    return (np.asarray(source.data).astype(np.uint32) << 16).view(np.float32)


with interpreting():  # a kernel keeps for good what it was imported as
    for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
        importlib.import_module(module.name)
