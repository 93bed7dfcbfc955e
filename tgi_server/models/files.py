"""Which files of a directory hold a model's weights, and which tensors are in them. Reads headers only. Stdlib only.

The launcher checks a model by this rule before anything is loaded, and the shards read what it found.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from tgi_server.errors import ModelError

ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""The number formats of safetensors files."""


class Form(NamedTuple):
    """How weights are stored: one file, or several, which an index may list."""

    index_file: str
    single: str
    several: str


SAFETENSORS = Form("model.safetensors.index.json", "model.safetensors", "*.safetensors")
PICKLES = Form("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
_FOREIGN = ("consolidated*", "adapter*", "medusa_lm_head*")
"""Mistral's own copy of the weights; changes to the weights of another model; heads beside a model's own."""
_PART = re.compile(r"-(\d+)-of-(\d+)\.")
_HEADER_LIMIT = 100_000_000
"""Bytes; the format's own limit. A larger number means the file is no safetensors file."""


class TensorInfo(NamedTuple):
    """Where a tensor is and what it is, as the header of its file tells.

    Attributes:
        file: the safetensors file that holds it.
        dtype: a name of `ITEM_BITS`.
        shape: its sizes, outermost first.
        offset: bytes from the beginning of the file to its first number.
        bytes: its length.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that hold the weights: those an index names, else model.safetensors, else all of them.

    Raises:
        ModelError: there are none, not all of them, or only .bin files.
    """
    names = weight_names(directory)
    if are_pickles(names):
        raise ModelError(f"{directory} holds its weights as .bin files only; *.safetensors are needed")
    return [directory / name for name in names]


def headers(directory: Path) -> dict[str, TensorInfo]:
    """All tensors of a model by name, in the order of the files and of their names.

    Raises:
        ModelError: a file is missing, cut short, too long or no safetensors file, or a tensor is there twice.
    """
    found: dict[str, TensorInfo] = {}
    for path in weight_files(directory):
        for name, info in tensors(path).items():
            if name in found:
                raise ModelError(f"the tensor {name} is in two files: {found[name].file} and {path}")
            found[name] = info
    return found


def numbers(directory: Path, names: Iterable[str]) -> dict[str, int]:
    """What tensors of one whole number hold, of those called so; none where the weights are not there, or damaged."""
    try:
        infos = headers(directory)
    except (ModelError, OSError):
        return {}
    return {name: number for name in names if name in infos and (number := _number(infos[name])) is not None}


def _number(info: TensorInfo) -> int | None:
    if info.dtype not in ("I32", "I64") or math.prod(info.shape) != 1:
        return None
    with info.file.open("rb") as file:
        file.seek(info.offset)
        return int.from_bytes(file.read(info.bytes), "little", signed=True)


def tensors(path: Path) -> dict[str, TensorInfo]:
    """The tensors in a safetensors file that is whole.

    Raises:
        ModelError: the file is cut short, too long, or no safetensors file.
    """
    found, header = path.stat().st_size, _header(path)
    begin = 8 + len(header)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        infos = {name: _info(path, begin, entry) for name, entry in entries.items()}
        expected = _end(begin, infos)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError(f"{path} is damaged: its header cannot be read or contradicts itself") from None
    if found != expected:
        state = "truncated" if found < expected else "too long"
        raise ModelError(f"{path} is {state}: {expected} bytes expected, {found} found")
    return infos


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
    present = sorted(file_names(directory) if names is None else names)
    for form in (SAFETENSORS, PICKLES):
        if form.index_file in present:
            return _indexed(directory, form.index_file, present)
        if form.single in present:
            return [form.single]
        found = [name for name in present if fnmatchcase(name, form.several) and not _is_foreign(name)]
        if found:
            _check_parts(directory, found)
            return found
    raise ModelError(f"{directory} has no weights (*.safetensors, or pytorch_model*.bin to be converted)")


def file_names(directory: Path) -> list[str]:
    """The names of a directory's files, sorted; links that lead nowhere are none."""
    return sorted(path.name for path in directory.iterdir() if path.is_file())


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object a file holds; raises ModelError."""
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


def _is_foreign(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _FOREIGN)


def _indexed(directory: Path, index: str, present: Collection[str]) -> list[str]:
    weight_map = json_object(directory / index).get("weight_map")
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
        for other in _siblings(name):
            if other not in names:
                raise ModelError(f"{directory} lacks the weight file {other}")


def _siblings(name: str) -> Iterator[str]:
    """All parts of the whole that a file is one part of."""
    if part := _PART.search(name):
        for number in range(1, int(part[2]) + 1):
            yield f"{name[: part.start(1)]}{number:0{len(part[1])}}{name[part.end(1) :]}"


def _header(path: Path) -> bytes:
    found = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if found < 8 or size > _HEADER_LIMIT:
            raise ModelError(f"{path} is not a safetensors file")
        if found < 8 + size:
            raise ModelError(f"{path} is truncated: at least {8 + size} bytes expected, {found} found")
        return file.read(size)


def _info(path: Path, begin: int, entry: Mapping[str, Any]) -> TensorInfo:
    start, end = entry["data_offsets"]
    info = TensorInfo(path, entry["dtype"], tuple(entry["shape"]), begin + start, end - start)
    if math.prod(info.shape) * ITEM_BITS[info.dtype] // 8 != info.bytes:
        raise ValueError("wrong size")
    return info


def _end(begin: int, infos: Mapping[str, TensorInfo]) -> int:
    """Where the last tensor ends: they lie one behind the other; a ValueError when they do not."""
    position = begin
    for offset, length in sorted((info.offset, info.bytes) for info in infos.values()):
        if offset != position:
            raise ValueError("overlap or gap")
        position += length
    return position
