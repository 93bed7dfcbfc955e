"""Writes a safetensors file piece by piece, so that memory does not grow with the model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tgi_server.config.schema import DType

_FORMATS = {DType.float32: ("F32", 4), DType.float16: ("F16", 2), DType.bfloat16: ("BF16", 2)}
"""Name of a number format in the header, and its bytes."""
_ALIGNMENT = 8


def write(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: DType, pieces: Iterable[NDArray[Any]]) -> None:
    """Write the tensors named in `shapes`, all of one format.

    `pieces` yields their values in the same order, row by row, in arrays of any length.
    """
    code, item_bytes = _FORMATS[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * item_bytes
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for piece in pieces:
            file.write(piece.data)
