"""What the launchers need to know of a device and of tiles."""

from __future__ import annotations

import torch

TILE_BYTES = 16384
"""Of a tile of keys or values: three stages of both, or two and the queries, fit in any GPU's shared memory."""


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 on a CPU, where the interpreter runs one program after another."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def padded(size: int) -> int:
    """The power of two that holds `size`, at least 16, the smallest side of a matrix product in tensor cores."""
    return max(16, 1 << (size - 1).bit_length())


def tile_rows(width: int, dtype: torch.dtype) -> int:
    """How many rows of `width` elements make a tile of TILE_BYTES: a power of two from 16 to 64."""
    return min(max(TILE_BYTES // (padded(width) * dtype.itemsize), 16), 64)
