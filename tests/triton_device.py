"""Where the Triton kernels run in tests: imported from here they are interpreted on a CPU, compiled on a GPU."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import tgi_server.kernels.triton as kernels

triton = pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def interpreting() -> Iterator[None]:
    """Triton's interpreter is on, if there is no GPU."""
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = DEVICE.type == "cpu"
        yield


with interpreting():  # a kernel keeps for good what it was imported as
    for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
        importlib.import_module(module.name)
