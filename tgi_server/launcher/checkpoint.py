"""Is a model directory complete and undamaged? Reads headers only, so it takes milliseconds for any size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tgi_server.errors import ModelError

_INDEX = "model.safetensors.index.json"
_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
_HEADER_LIMIT = 100_000_000
"""Bytes; the format's own limit. A larger number means the file is no safetensors file."""


def check(directory: Path) -> None:
    """Look at the configuration, the tokenizer and every weight file of a model.

    Raises:
        ModelError: names the file that is missing or damaged.
    """
    _object(directory / "config.json")
    if not (directory / "tokenizer.json").is_file():
        raise ModelError(f"{directory} has no tokenizer.json")
    owner: dict[str, Path] = {}
    for path in _weight_files(directory):
        for name in _tensor_names(path):
            if name in owner:
                raise ModelError(f"the tensor {name} is in two files: {owner[name]} and {path}")
            owner[name] = path


def _object(path: Path) -> dict[str, Any]:
    """The JSON object a file holds."""
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return content


def _weight_files(directory: Path) -> list[Path]:
    """The files the weights are read from: those of the index, else model.safetensors, else all *.safetensors."""
    if (directory / _INDEX).exists():
        return _indexed_files(directory)
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    files = sorted(directory.glob("*.safetensors"))
    if files:
        return files
    if any(directory.glob("*.bin")):
        raise ModelError(f"{directory} holds its weights as .bin files only; *.safetensors are needed")
    raise ModelError(f"{directory} has no weights (*.safetensors)")


def _indexed_files(directory: Path) -> list[Path]:
    weight_map = _object(directory / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{directory / _INDEX} has no weight_map")
    files = [directory / str(name) for name in sorted(set(weight_map.values()))]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ModelError(f"{directory} lacks weight files that {_INDEX} names: {', '.join(missing)}")
    return files


def _tensor_names(path: Path) -> Iterable[str]:
    """The tensors in a safetensors file that is whole.

    Raises:
        ModelError: the file is cut short, too long, or no safetensors file.
    """
    found = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if found < 8 or header_size > _HEADER_LIMIT:
            raise ModelError(f"{path} is not a safetensors file")
        if found < 8 + header_size:
            raise ModelError(f"{path} is truncated: at least {8 + header_size} bytes expected, {found} found")
        header = file.read(header_size)
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        data_size = _data_size(tensors.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ModelError(f"{path} is damaged: its header cannot be read or contradicts itself") from None
    expected = 8 + header_size + data_size
    if found != expected:
        state = "truncated" if found < expected else "too long"
        raise ModelError(f"{path} is {state}: {expected} bytes expected, {found} found")
    return list(tensors)


def _data_size(entries: Iterable[dict[str, Any]]) -> int:
    """Bytes of all tensors, which lie one behind the other; a ValueError when they do not."""
    position = 0
    for start, end, entry in sorted(((*e["data_offsets"], e) for e in entries), key=lambda found: found[:2]):
        size = math.prod(entry["shape"]) * _ITEM_BITS[entry["dtype"]] // 8
        if start != position or end != start + size:
            raise ValueError("overlap, gap or wrong size")
        position = end
    return position
