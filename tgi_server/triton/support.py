"""Whether the kernels of this package can run, and what they need to know of the device. Imports triton lazily."""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch

from tgi_server import custom_kernels

LOG2_E = math.log2(math.e)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
OLDEST = (8, 0)
"""Compute capability from which on all of DTYPES can be multiplied by tensor cores."""
TILE_BYTES = 16384
"""Of a tile of keys or values: three stages of both, or two and the queries, fit in any GPU's shared memory."""


def unsupported(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Why the kernels cannot run for `dtype` on `device`; empty when they can.

    On a CPU triton's interpreter could run them, but that is made for tests.
    """
    reasons = custom_kernels.disabled()
    if dtype not in DTYPES:
        reasons.append(f"the Triton kernels compute in {', '.join(map(str, DTYPES))}, not {dtype}")
    if device.type != "cuda":
        reasons.append("the Triton kernels need a GPU")
    elif find_spec("triton") is None:
        reasons.append("the package triton is not installed")
    else:
        reasons += _too_old(device)
    return reasons


def _too_old(device: torch.device) -> list[str]:
    capability = torch.cuda.get_device_capability(device)
    if capability >= OLDEST:
        return []
    have, need = (".".join(map(str, version)) for version in (capability, OLDEST))
    return [f"the Triton kernels need compute capability {need}; this GPU has {have}"]


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 on a CPU, where the interpreter runs one program after another."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def padded(size: int) -> int:
    """The power of two that holds `size`, at least 16, the smallest side of a matrix product in tensor cores."""
    return max(16, 1 << (size - 1).bit_length())


def tile_rows(width: int, dtype: torch.dtype) -> int:
    """How many rows of `width` elements make a tile of TILE_BYTES: a power of two from 16 to 64."""
    return min(max(TILE_BYTES // (padded(width) * dtype.itemsize), 16), 64)
