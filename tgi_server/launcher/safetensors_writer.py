"""Writes a safetensors file piece by piece, so that memory does not grow with the model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tgi_server.models.files import ITEM_BITS

_ALIGNMENT = 8


def write(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], pieces: Iterable[NDArray[Any]]) -> None:
    """Write tensors; `tensors` tells the number format (one of `ITEM_BITS`) and the shape of each.

    `pieces` yields their values in the same order, row by row, in arrays of any length.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (code, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * ITEM_BITS[code] // 8
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for piece in pieces:
            file.write(piece.data)
