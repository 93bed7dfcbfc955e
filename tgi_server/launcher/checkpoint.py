"""Is a model directory complete and undamaged? Reads headers only, so it takes milliseconds for any size."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from tgi_server.errors import ModelError

ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""The number formats of safetensors files."""
DESCRIPTIONS = ("*.json", "*.jinja", "tokenizer*")
"""The files beside the weights: configuration, tokenizer, chat template."""


class _Form(NamedTuple):
    """How weights are stored: one file, or several, which an index may list."""

    index_file: str
    single: str
    several: str


SAFETENSORS = _Form("model.safetensors.index.json", "model.safetensors", "*.safetensors")
_PICKLES = _Form("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
_FOREIGN = ("consolidated*", "adapter*")
"""Mistral's own copy of the weights; changes to the weights of another model."""
_PART = re.compile(r"-(\d+)-of-(\d+)\.")
_HEADER_LIMIT = 100_000_000
"""Bytes; the format's own limit. A larger number means the file is no safetensors file."""


def check(directory: Path) -> None:
    """Look at the configuration, the tokenizer and every weight file of a model.

    Raises:
        ModelError: names the file that is missing or damaged, or the weights are .bin files.
    """
    check_description(directory)
    names = weight_names(directory)
    if are_pickles(names):
        raise ModelError(f"{directory} holds its weights as .bin files only; *.safetensors are needed")
    owner: dict[str, Path] = {}
    for path in (directory / name for name in names):
        for tensor in _tensor_names(path):
            if tensor in owner:
                raise ModelError(f"the tensor {tensor} is in two files: {owner[tensor]} and {path}")
            owner[tensor] = path


def check_description(directory: Path) -> None:
    """Look at the configuration and the tokenizer only; raises ModelError."""
    _object(directory / "config.json")
    if not (directory / "tokenizer.json").is_file():
        raise ModelError(f"{directory} has no tokenizer.json")


def is_complete(directory: Path) -> bool:
    """Whether nothing is missing, damaged files included; of .bin files only whether they are there."""
    try:
        check_description(directory)
        if not are_pickles(weight_names(directory)):
            check(directory)
    except (ModelError, OSError):
        return False
    return True


def description_names(directory: Path) -> list[str]:
    """The files beside the weights that are there."""
    indexes = (SAFETENSORS.index_file, _PICKLES.index_file)
    return [
        name
        for name in _file_names(directory)
        if name not in indexes and any(fnmatchcase(name, pattern) for pattern in DESCRIPTIONS)
    ]


def are_pickles(names: Collection[str]) -> bool:
    """Whether weight files are .bin files, which cannot be served as they are."""
    return all(name.endswith(".bin") for name in names)


def weight_names(directory: Path, names: Collection[str] | None = None) -> list[str]:
    """The files that hold the weights: safetensors where there are any, else .bin files.

    Args:
        directory: of the model; an index is read from there.
        names: the files that count as existing, instead of those in the directory.

    Raises:
        ModelError: there are none, or not all of them.
    """
    present = sorted(_file_names(directory) if names is None else names)
    for form in (SAFETENSORS, _PICKLES):
        if form.index_file in present:
            return _indexed(directory, form.index_file, present)
        if form.single in present:
            return [form.single]
        found = [name for name in present if fnmatchcase(name, form.several) and not _is_foreign(name)]
        if found:
            _check_parts(directory, found)
            return found
    raise ModelError(f"{directory} has no weights (*.safetensors, or pytorch_model*.bin to be converted)")


def _file_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_file())


def _is_foreign(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _FOREIGN)


def _indexed(directory: Path, index: str, present: Collection[str]) -> list[str]:
    weight_map = _object(directory / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{directory / index} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    suffix = index.removesuffix(".index.json").rpartition(".")[2]
    if strange := [name for name in names if "/" in name or not name.endswith(f".{suffix}")]:
        raise ModelError(f"{directory / index} names what is no .{suffix} file beside it: {strange[0]!r}")
    if missing := [name for name in names if name not in present]:
        raise ModelError(f"{directory} lacks weight files that {index} names: {', '.join(missing)}")
    return names


def _check_parts(directory: Path, names: Collection[str]) -> None:
    """Files called NAME-00001-of-00003 have to be three; an index would have said so."""
    for name in names:
        part = _PART.search(name)
        for number in range(1, int(part[2]) + 1) if part else ():
            other = f"{name[: part.start(1)]}{number:0{len(part[1])}}{name[part.end(1) :]}" if part else ""
            if other not in names:
                raise ModelError(f"{directory} lacks the weight file {other}")


def _object(path: Path) -> dict[str, Any]:
    """The JSON object a file holds."""
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}")
    if path.stat().st_size > _HEADER_LIMIT:
        raise ModelError(f"{path} is too large to be what its name says")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return content


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
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
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
        size = math.prod(entry["shape"]) * ITEM_BITS[entry["dtype"]] // 8
        if start != position or end != start + size:
            raise ValueError("overlap, gap or wrong size")
        position = end
    return position
