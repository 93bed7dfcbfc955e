"""Calls of compiled kernels: run one by one, or recorded and run together.

A recording is the same idea as a CUDA graph: addresses and sizes are fixed when it is made, so that running it again
costs one call into the library whose threads are woken once, instead of hundreds of calls from Python.
"""

from __future__ import annotations

import ctypes
import struct
import time
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tgi_server.kernels.native import layout
from tgi_server.kernels.native.build import library

_SIZE = 8 * layout.CALL  # bytes of a call
_WORTH = 1 << 15  # numbers to compute from which waking the other threads pays for a single call


class Recording:
    """Kernel calls in order. Everything they read and write has to stay where it is as long as it may be run.

    Results (`empty`) do by themselves; what is `held` does as long as the recording; the rest is its owner's business.
    """

    def __init__(self) -> None:
        self._calls = bytearray()
        self._kernels: list[str] = []
        self._threads = torch.get_num_threads()  # the calls have scratch memory for this many
        self.held: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._kernels)

    def add(self, kernel: str, call: bytes) -> None:
        """Append one packed call."""
        self._calls += call
        self._kernels.append(kernel)

    def run(self) -> None:
        """Run all calls, each with all threads."""
        self._run(0, len(self))

    def profile(self) -> list[tuple[str, float]]:
        """Run the calls one by one; each one's kernel and seconds, which include waking the threads."""
        times = []
        for i, kernel in enumerate(self._kernels):
            begin = time.perf_counter()
            self._run(i, 1)
            times.append((kernel, time.perf_counter() - begin))
        return times

    def _run(self, first: int, count: int) -> None:
        calls = (ctypes.c_char * (count * _SIZE)).from_buffer(self._calls, first * _SIZE)
        library().run(calls, ctypes.c_int64(count), ctypes.c_int64(self._threads))


_recording: Recording | None = None


@contextmanager
def record(strict: bool = False) -> Iterator[Recording]:
    """Within it, kernels are not run but added to the recording. Not for several threads at once.

    What torch computes meanwhile reads results that are not there yet, and is not done again with the recording. With
    `strict` that is a RuntimeError which names the operator; only views and new memory are allowed. It takes some
    milliseconds, and is meant for recordings that are kept.
    """
    global _recording
    _recording = Recording()
    try:
        with _NothingComputed() if strict else nullcontext():  # type: ignore[no-untyped-call]
            yield _recording
    finally:
        _recording = None


class _NothingComputed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets no operator of torch run but those whose results are other tensors' memory, or nobody's yet."""

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, or raise RuntimeError."""
        kwargs = kwargs or {}
        result = None if func._schema.is_mutable else func(*args, **kwargs)
        memory = _memory(result)
        if func.overloadpacket not in _ALLOCATE and not (memory and memory <= _memory((args, kwargs))):
            raise RuntimeError(f"{func} is no recorded kernel: it would not be run again with the recording")
        return result


_aten = torch.ops.aten
_ALLOCATE = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided}


def _memory(values: object) -> set[int]:
    """Where the tensors among `values` lie."""
    return {value.untyped_storage().data_ptr() for value in tree_leaves(values) if isinstance(value, Tensor)}


@cache
def _prepared(loaded: ctypes.CDLL, kernel: str) -> tuple[struct.Struct, int]:
    """How a call of a kernel is packed, and the kernel's address."""
    address = ctypes.cast(getattr(loaded, kernel), ctypes.c_void_p).value
    assert address is not None
    letters = layout.letters(kernel)
    return struct.Struct(f"=q{letters}{_SIZE - 8 - 8 * len(letters)}x"), address


def call(kernel: str, work: int, *arguments: float | Tensor | None) -> None:
    """Run or record `kernel` with the arguments that `layout.ARGUMENTS` names; about `work` numbers are computed."""
    packing, address = _prepared(library(), kernel)
    packed = packing.pack(address, *map(_plain, arguments))
    if _recording is not None:
        _recording.add(kernel, packed)
    else:
        threads = torch.get_num_threads() if work > _WORTH else 1
        library().run(packed, ctypes.c_int64(1), ctypes.c_int64(threads))


def _plain(argument: float | Tensor | None) -> float:
    if isinstance(argument, Tensor):
        if not argument.is_contiguous():
            raise ValueError(f"a kernel reads whole tensors, not a view of shape {tuple(argument.shape)}")
        return argument.data_ptr()
    return 0 if argument is None else argument


def hold(tensor: Tensor) -> None:
    """Keep `tensor` as long as the present recording, if there is one."""
    if _recording is not None:
        _recording.held.append(tensor)


_SMALL = 1 << 16
"""Bytes that torch's allocator gives out without asking the system."""
_free: dict[int, list[np.ndarray[tuple[int], np.dtype[np.uint8]]]] = defaultdict(list)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory for a kernel's result, out of a pool of our own.

    What is given back may be given out again to later calls (all calls run one after the other), but never to anything
    else: a recorded call writes to its memory whenever it is run. So a result must not be kept for longer than the step
    it belongs to. It also spares asking the system for memory each time; a small result of a call that is not recorded
    is torch's own, which has such memory at hand.
    """
    size = prod(shape) * dtype.itemsize
    if _recording is None and size <= _SMALL:
        return torch.empty(shape, dtype=dtype)
    step = 1 << max(6, size.bit_length() - 3)
    rounded = -(-size // step) * step  # sizes that differ a little share memory, and at most a quarter is wasted
    memory = _free[rounded].pop() if _free[rounded] else _aligned(rounded)
    lent = memory[:size]  # an object of its own: it lives as long as a tensor uses it
    weakref.finalize(lent, _free[rounded].append, memory)
    return torch.from_numpy(lent).view(dtype).view(shape)


def _aligned(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    memory = np.empty(size + 63, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
