"""GGUF files (versions 2 and 3, little endian), one or several parts of one; damage becomes an error of one line.

The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package has a reader, too, which makes array
objects of hundreds of bytes of every token, and follows a damaged count until memory runs out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, Keys
from numpy.typing import NDArray

from tgi_server.errors import ModelError
from tgi_server.launcher.gguf.parts import parts

_START = struct.Struct("<4sIQQ")
"""Magic, version, number of tensors, number of metadata values."""
_TENSOR_BYTES, _VALUE_BYTES = 24, 13
"""The least that the description of a tensor and a metadata value take."""
_MOST_ELEMENTS, _MOST_AXES = 1 << 24, 4
_NUMBERS = {
    GGUFValueType.UINT8: "u1", GGUFValueType.INT8: "i1", GGUFValueType.UINT16: "<u2", GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4", GGUFValueType.INT32: "<i4", GGUFValueType.FLOAT32: "<f4", GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8", GGUFValueType.INT64: "<i8", GGUFValueType.FLOAT64: "<f8",
}  # fmt: skip
_PLAIN = {
    GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F16: "<f2", GGMLQuantizationType.F64: "<f8",
}  # fmt: skip
"""Types that are numbers as they are; the others are blocks of bytes."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`shape` is in the usual order (rows first); `data` are the stored rows, [rows, ...], mapped and not yet read."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    data: NDArray[Any]


class GgufFile:
    """Metadata and tensors of a GGUF file, with those of its other parts where it is split.

    Raises:
        ModelError: a file is not GGUF, of a version that is not read, truncated or damaged, or a part is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, StoredTensor] = {}
        self.used: set[str] = set()
        """Keys that somebody asked for."""
        for number, part in enumerate(parts(path)):
            if not part.is_file():
                raise ModelError(f"{path}: its part {part.name} is missing")
            metadata, tensors = _Part(part).read()
            if twice := tensors.keys() & self.tensors.keys():
                raise _unusable(part, f"the tensor {min(twice)} is in two parts")
            self.tensors |= tensors
            self.metadata = self.metadata if number else metadata
        self._check_parts()
        self.architecture = self.required(Keys.General.ARCHITECTURE, str)

    def _check_parts(self) -> None:
        files, wanted = len(parts(self.path)), self.optional(Keys.Split.LLM_KV_SPLIT_COUNT, int) or 1
        if wanted != files:
            raise ModelError(
                f"{self.path}: it is one of {wanted} parts; they have to be called NAME-00001-of-{wanted:05d}.gguf "
                "and so on, in one directory"
            )
        tensors = self.optional(Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT, int) or len(self.tensors)
        if tensors != len(self.tensors):
            raise ModelError(f"{self.path}: its parts hold {len(self.tensors)} tensors, {tensors} expected")

    def key(self, name: str) -> str:
        """The full key of one of the package's `Keys`, which may leave the architecture open."""
        return name.format(arch=self.architecture) if "{arch}" in name else name

    def optional(self, name: str, kind: type[T]) -> T | None:
        """A metadata value, None where the file has none."""
        key = self.key(name)
        self.used.add(key)
        value = self.metadata.get(key)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise ModelError(f"{self.path}: the metadata {key} should be of type {kind.__name__}")
        return value

    def required(self, name: str, kind: type[T]) -> T:
        """A metadata value that has to be there."""
        value = self.optional(name, kind)
        if value is None:
            raise ModelError(f"{self.path}: the metadata {self.key(name)} is missing")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """A number above 0; of a list with one entry a layer, what all entries are."""
        key = self.key(name)
        self.used.add(key)
        value = self.metadata.get(key)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise ModelError(f"{self.path}: the metadata {key} differs between layers, which is not supported")
            value = value[0]
        if value is None and default is not None:
            return default
        if value is None:
            raise ModelError(f"{self.path}: the metadata {key} is missing")
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelError(f"{self.path}: the metadata {key} should be of type int")
        if value <= 0:
            raise ModelError(f"{self.path}: the metadata {key} is {value}")
        return value

    def decimal(self, name: str, default: float | None = None) -> float:
        """A float32, as the shortest decimal number that rounds to it: 1e-05 and not 9.999999747378752e-06."""
        value = self.optional(name, float)
        if value is None and default is not None:
            return default
        value = self.required(name, float)
        if not math.isfinite(value):
            raise ModelError(f"{self.path}: the metadata {self.key(name)} is {value}")
        return float(str(np.float32(value)))

    def strings(self, name: str) -> list[str]:
        """A list of strings that has to be there."""
        value = self.required(name, list)
        if not all(isinstance(item, str) for item in value):
            raise ModelError(f"{self.path}: the metadata {name} should be a list of strings")
        return value

    def has(self, *names: str) -> bool:
        """Whether the file has these tensors."""
        return all(name in self.tensors for name in names)


class _Part:
    """One file; everything in it is read at a position that moves on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        tensors, values = self._start()
        self._counts = tensors, values
        self._bytes = np.memmap(path, mode="r")
        self._view = self._bytes.data
        self._position = _START.size

    def read(self) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
        """Metadata and tensors."""
        tensors, values = self._counts
        metadata: dict[str, Any] = {}
        for _ in range(values):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"the metadata {key!r:.60} is there twice")
            metadata[key] = self._value(self._number("<I"))
        infos = [self._info() for _ in range(tensors)]
        alignment = metadata.get(Keys.General.ALIGNMENT, 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self._damaged(f"an alignment of {alignment!r:.60}")
        begin = -(-self._position // alignment) * alignment
        stored = {info[0]: self._stored(begin, *info) for info in infos}
        if len(stored) != len(infos):
            raise self._damaged("a tensor is there twice")
        return metadata, stored

    def _start(self) -> tuple[int, int]:
        with self._path.open("rb") as file:
            start = file.read(_START.size)
        if not start.startswith(b"GGUF") or len(start) < _START.size:
            raise _unusable(self._path, "it does not begin with a GGUF header")
        _, version, tensors, values = _START.unpack(start)
        if version not in (2, 3):
            raise _unusable(self._path, f"version {version} is not supported (2 and 3 are, in little endian)")
        if tensors * _TENSOR_BYTES + values * _VALUE_BYTES > self._size:
            raise _unusable(self._path, f"it is too short for {tensors} tensors and {values} metadata values")
        return tensors, values

    def _take(self, length: int) -> memoryview:
        begin, self._position = self._position, self._position + length
        if self._position > self._size:
            raise self._damaged("it ends too early")
        return self._view[begin : self._position]

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _string(self) -> str:
        try:
            return str(self._take(self._number("<Q")), "utf-8")
        except UnicodeDecodeError:
            raise self._damaged("a text is not UTF-8") from None

    def _value(self, code: int) -> Any:
        if code == GGUFValueType.STRING:
            return self._string()
        if code == GGUFValueType.ARRAY:
            return self._array(self._number("<I"), self._number("<Q"))
        return self._numbers(code, 1)[0]

    def _array(self, code: int, count: int) -> list[Any]:
        if count > _MOST_ELEMENTS:
            raise self._damaged(f"a list of {count} elements")
        return [self._string() for _ in range(count)] if code == GGUFValueType.STRING else self._numbers(code, count)

    def _numbers(self, code: int, count: int) -> list[Any]:
        if code not in _NUMBERS:
            raise self._damaged(f"metadata of the type {code}")
        dtype = np.dtype(_NUMBERS[GGUFValueType(code)])
        values: list[Any] = np.frombuffer(self._take(count * dtype.itemsize), dtype).tolist()
        return values

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, sizes, type and place of a tensor."""
        name, axes = self._string(), self._number("<I")
        if not 0 < axes <= _MOST_AXES:
            raise self._damaged(f"the tensor {name!r:.60} has {axes} axes")
        shape = struct.unpack(f"<{axes}Q", self._take(8 * axes))
        return name, shape[::-1], self._number("<I"), self._number("<Q")

    def _stored(self, begin: int, name: str, shape: tuple[int, ...], code: int, offset: int) -> StoredTensor:
        try:
            kind = GGMLQuantizationType(code)
        except ValueError:
            raise ModelError(f"{self._path}: the tensor {name!r:.60} is of the unknown type {code}") from None
        values, size = GGML_QUANT_SIZES[kind]
        if shape[-1] % values or not math.prod(shape):
            raise self._damaged(f"the tensor {name!r:.60} is {list(shape)} in blocks of {values}")
        start, length = begin + offset, math.prod(shape) // values * size
        if start + length > self._size:
            raise self._damaged(f"it ends before the tensor {name!r:.60}")
        data = self._bytes[start : start + length]
        if kind in _PLAIN:
            data = np.frombuffer(data, _PLAIN[kind])
        return StoredTensor(name, shape, kind, data.reshape(math.prod(shape[:-1]), -1))

    def _damaged(self, reason: str) -> ModelError:
        return _unusable(self._path, f"it is truncated or damaged ({reason})")


def unused(file: GgufFile) -> Mapping[str, Any]:
    """Metadata of the model, by keys that the package knows, that nobody asked for and that say more than nothing."""
    known = {
        value.format(arch=file.architecture)
        for group in (Keys.LLM, Keys.Attention, Keys.Rope)
        for value in vars(group).values()
        if isinstance(value, str) and value.startswith("{arch}") and value.count("{") == 1
    }
    return {key: value for key, value in file.metadata.items() if key in known - file.used and value}


def _unusable(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} is not a usable GGUF file: {reason}")
