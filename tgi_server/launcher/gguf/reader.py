"""A GGUF file (versions 2 and 3, little endian), read with the `gguf` package; damage becomes an error of one line."""

from __future__ import annotations

import math
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from numpy.typing import NDArray

from tgi_server.errors import ModelError

_START = struct.Struct("<4sIQQ")
"""Magic, version, number of tensors, number of metadata values."""
_TENSOR_BYTES, _VALUE_BYTES = 24, 13
"""The least that the description of a tensor and a metadata value take."""
_EXPANSION, _MOST, _SPARE = 100, 1 << 30, 8 << 20
"""Memory that reading may take: so many times the file's bytes, but never more than 1 GiB, and a little for itself.

The package makes an array object of some 650 bytes for every number of a metadata array, two for a string, which comes
to 90 times the size of a metadata block with a vocabulary; most of a file are weights. 128 000 tokens take 0.6 GB.
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`shape` is in the usual order (rows first); `data` are the stored rows, [rows, ...], mapped and not yet read."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    data: NDArray[Any]


class GgufFile:
    """Metadata and tensors of a GGUF file.

    Raises:
        ModelError: the file is not GGUF, of a version that is not read, truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        _check_start(path, size)
        try:
            with np.errstate(all="raise"), _bounded_memory(size):
                reader = GGUFReader(path)  # maps every tensor, which fails where the file ends too early
                self.metadata = {name: field.contents() for name, field in reader.fields.items()}
                self.tensors = {tensor.name: _stored(tensor) for tensor in reader.tensors}
        except OSError:
            raise
        except Exception as error:  # damage comes out of the package as whatever it leads to
            reason = " ".join(str(error).split()) or type(error).__name__
            raise _unusable(path, f"it is truncated or damaged ({reason})") from None

    def optional(self, key: str, kind: type[T]) -> T | None:
        """A metadata value, None where the file has none."""
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, kind):
            raise ModelError(f"{self.path}: the metadata {key} should be of type {kind.__name__}")
        return value

    def required(self, key: str, kind: type[T]) -> T:
        """A metadata value that has to be there."""
        value = self.optional(key, kind)
        if value is None:
            raise ModelError(f"{self.path}: the metadata {key} is missing")
        return value

    def strings(self, key: str) -> list[str]:
        """A list of strings that has to be there."""
        value = self.required(key, list)
        if not all(isinstance(item, str) for item in value):
            raise ModelError(f"{self.path}: the metadata {key} should be a list of strings")
        return value


def _check_start(path: Path, size: int) -> None:
    with path.open("rb") as file:
        start = file.read(_START.size)
    if not start.startswith(b"GGUF") or len(start) < _START.size:
        raise _unusable(path, "it does not begin with a GGUF header")
    _, version, tensors, values = _START.unpack(start)
    if version not in (2, 3):
        raise _unusable(path, f"version {version} is not supported (2 and 3 are, in little endian)")
    if tensors * _TENSOR_BYTES + values * _VALUE_BYTES > size:
        raise _unusable(path, f"it is too short for {tensors} tensors and {values} metadata values")


def _unusable(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} is not a usable GGUF file: {reason}")


@contextmanager
def _bounded_memory(file_size: int) -> Iterator[None]:
    """Have allocations fail early: the package follows a damaged element count beyond the end of the file."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + file_size + min(file_size * _EXPANSION, _MOST) + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _stored(tensor: ReaderTensor) -> StoredTensor:
    shape = tuple(reversed(tensor.shape.tolist()))
    return StoredTensor(shape, tensor.tensor_type, tensor.data.reshape(math.prod(shape[:-1]), -1))
