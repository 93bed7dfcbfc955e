"""Tensors on disk, and any part of them in memory. Only what is asked for is read, and no file is mapped."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tgi_server.errors import ModelError
from tgi_server.layers.spread import Span
from tgi_server.models.files import ITEM_BITS, TensorInfo, headers

SHORT = 4096
"""Bytes; a disk gives no fewer. Where pieces of rows are shorter, whole rows are read."""
_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip


class Tensors(Protocol):
    """The tensors of a model by name."""

    def __contains__(self, name: object) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor; raises ModelError when it is missing."""
        ...

    def read(
        self, name: str, axis: int = 0, pieces: Sequence[Span] | None = None, entry: int | None = None,
        rows: Span | None = None,
    ) -> Tensor:  # fmt: skip
        """Tensor `name`, or `pieces` of its `axis` one after the other, on the CPU, in memory of its own.

        With `entry` it is this entry of the tensor's first axis that is meant. With `rows` only these rows of the
        result are read. Several threads may read at once.

        Raises:
            ModelError: there is no such tensor, or less of it.
        """
        ...


class Checkpoint:
    """The tensors of a model directory.

    Args:
        directory: holds safetensors; ModelError when there are none, or damaged ones.
        infos: the tensors that count, where it is not all of the model's.
        report: hears after each read which part of what is wanted has been read, 0 to 1.

    Attributes:
        infos: what the files' headers tell.
        wanted: bytes that will be read, about; all there are unless it is set.
    """

    def __init__(
        self, directory: Path, report: Callable[[float], None] = lambda fraction: None,
        infos: Mapping[str, TensorInfo] | None = None,
    ) -> None:  # fmt: skip
        self.infos = headers(directory) if infos is None else infos
        self._directory = directory
        with ExitStack() as stack:
            files = {info.file for info in self.infos.values()}
            self._files = {path: stack.enter_context(path.open("rb", buffering=0)) for path in files}
            weakref.finalize(self, stack.pop_all().close)
        self._report = report
        self.wanted = sum(info.bytes for info in self.infos.values())
        self._done = 0
        self._lock = threading.Lock()

    def __contains__(self, name: object) -> bool:
        return name in self.infos

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors`."""
        return self._info(name).shape

    def read(
        self, name: str, axis: int = 0, pieces: Sequence[Span] | None = None, entry: int | None = None,
        rows: Span | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Tensors`. In the dtype of the file."""
        info = self._info(name) if entry is None else _entry(self._info(name), entry)
        shape = info.shape or (1,)
        if pieces is None:
            pieces = [(0, shape[axis])]
        if any(not 0 <= start <= stop <= shape[axis] for start, stop in pieces):
            raise ModelError(f"{self._directory}: tensor {name} has the shape {list(shape)}, more was expected")
        if axis == 0:
            found = self._rows(info, pieces if rows is None else part(pieces, *rows))
        else:
            found = self._columns(info, axis, pieces, *(rows or (0, shape[0])))
        return found if info.shape else found.view(())

    def _info(self, name: str) -> TensorInfo:
        if name not in self.infos:
            raise ModelError(f"{self._directory}: tensor {name} is missing")
        if self.infos[name].dtype not in _DTYPES:
            raise ModelError(f"{self._directory}: tensor {name} is of the type {self.infos[name].dtype}, unknown here")
        return self.infos[name]

    def _rows(self, info: TensorInfo, pieces: Sequence[Span]) -> Tensor:
        """Pieces of the first axis."""
        shape = info.shape or (1,)
        row = prod(shape[1:]) * ITEM_BITS[info.dtype] // 8
        count = _length(pieces)
        found = self._bytes(info, ((start * row, stop * row) for start, stop in pieces), count * row)
        return found.view(_DTYPES[info.dtype]).view(count, *shape[1:])

    def _columns(self, info: TensorInfo, axis: int, pieces: Sequence[Span], first: int, last: int) -> Tensor:
        """Pieces of a later axis, of some rows."""
        shape = info.shape
        inner = prod(shape[axis + 1 :]) * ITEM_BITS[info.dtype] // 8
        shortest = min((stop - start for start, stop in pieces), default=0) * inner
        if shortest < SHORT or (len(pieces) == 1 and pieces[0] == (0, shape[axis])):
            whole = self._rows(info, [(first, last)])
            parts = [whole.narrow(axis, start, stop - start) for start, stop in pieces]
            return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, dim=axis)
        outer, run, count = prod(shape[1:axis]), shape[axis] * inner, _length(pieces)
        runs = (
            (number * run + start * inner, number * run + stop * inner)
            for number in range(first * outer, last * outer)
            for start, stop in pieces
        )
        found = self._bytes(info, runs, (last - first) * outer * count * inner)
        return found.view(_DTYPES[info.dtype]).view(last - first, *shape[1:axis], count, *shape[axis + 1 :])

    def _bytes(self, info: TensorInfo, runs: Iterable[Span], size: int) -> Tensor:
        """Those bytes of a tensor, `size` in all."""
        found = torch.empty(size, dtype=torch.uint8)
        room, file = found.numpy().data, self._files[info.file].fileno()
        at = 0
        for start, stop in runs:
            while start < stop:
                count = os.preadv(file, [room[at : at + stop - start]], info.offset + start)
                if not count:
                    raise ModelError(f"{info.file} became shorter while it was read")
                start, at = start + count, at + count
        with self._lock:
            self._done += size
            self._report(min(1.0, self._done / max(1, self.wanted)))
        return found


def _length(pieces: Sequence[Span]) -> int:
    return sum(stop - start for start, stop in pieces)


def _entry(info: TensorInfo, number: int) -> TensorInfo:
    """One entry of the first axis, as if it were a tensor."""
    size = info.bytes // info.shape[0]
    return info._replace(shape=info.shape[1:], offset=info.offset + number * size, bytes=size)


def part(pieces: Sequence[Span], first: int, last: int) -> list[Span]:
    """Of pieces one after the other, what is between `first` and `last`."""
    found, at = [], 0
    for start, stop in pieces:
        begin, end = max(start, start + first - at), min(stop, start + last - at)
        if begin < end:
            found.append((begin, end))
        at += stop - start
    return found
