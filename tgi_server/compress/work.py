"""The directory in which a checkpoint grows, and what of it is done, whenever the work was cut off."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgi_server.compress.forward import States
from tgi_server.errors import ModelError
from tgi_server.launcher import safetensors_writer
from tgi_server.launcher.conversions import sync

CODES = {torch.int32: "I32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
FLOATS = {code: dtype for dtype, code in CODES.items() if dtype.is_floating_point}
_JOB = "job.json"
_NEW = ".new"
"""The end of the name of what is not whole."""
_PATIENCE = 3.0
"""Seconds in which a process that was told to end may leave the directory."""


def partial(out: Path) -> Path:
    """Where the work for `out` is."""
    return out.with_name(out.name + ".partial")


class Work:
    """`OUT.partial`: the job it is for, a file for every block that is done, and the states that the next one reads.

    A block's file comes last, when all that goes on from it is on the disk.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.directory = partial(out)

    @contextmanager
    def held(self, job: Mapping[str, Any]) -> Iterator[None]:
        """Keep others out, for the time of the work on this job.

        Nothing stays of work that ends before anything is done.

        Raises:
            ModelError: another process is at it, the directory is that of another job, or of no job, or it is full.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / ".lock").open("w") as lock:
            self._lock(lock.fileno())
            self._claim(job)
            try:
                yield
            except BaseException as error:
                self._forget()
                if isinstance(error, OSError) and error.filename is None:  # what was written, and no more can be
                    raise ModelError(f"{self.directory}: {error.strerror}") from None
                raise

    def _forget(self) -> None:
        """Options that did not work must not stand in the way of those that do."""
        whole = {path.name for path in self.directory.glob("*") if not path.name.endswith(_NEW)}
        if not whole - {".lock", _JOB}:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _lock(self, file: int) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ModelError(f"{self.directory}: another process is at work in it") from None
                time.sleep(0.05)

    def _claim(self, job: Mapping[str, Any]) -> None:
        path = self.directory / _JOB
        others = {entry.name for entry in self.directory.iterdir()} - {".lock", _JOB + _NEW}
        if not others:
            _new(path).write_text(json.dumps(job, indent=1), encoding="utf-8")
            _put(path)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            differ = [f"{name}={value}" for name, value in found.items() if job.get(name) != value]
            same = found == dict(job)
        except (OSError, ValueError, AttributeError):
            raise ModelError(f"{self.directory}: it is no work of this job; delete it, or choose another out") from None
        if not same:
            raise ModelError(
                f"{self.directory}: it holds the work of another job ({', '.join(differ)}); go on with that, delete "
                "it, or choose another out"
            )

    def done(self, blocks: int) -> int:
        """How many blocks are done."""
        return next((number for number in range(blocks) if not self.block(number).exists()), blocks)

    def block(self, number: int) -> Path:
        """The file with the tensors of a block."""
        return self.directory / f"block-{number:05}.safetensors"

    def states(self, number: int, shape: tuple[int, ...]) -> States:
        """What block `number` reads."""
        return np.memmap(self._states(number), dtype=np.float32, mode="r", shape=shape)

    @contextmanager
    def new_states(self, number: int, shape: tuple[int, ...]) -> Iterator[States]:
        """What block `number` will read, to be filled."""
        path = self._states(number)
        with _new(path).open("wb") as file:  # a full disk is an error here, but a signal once the file is memory
            os.posix_fallocate(file.fileno(), 0, np.dtype(np.float32).itemsize * prod(shape))
        states = np.memmap(_new(path), dtype=np.float32, mode="r+", shape=shape)
        yield states
        states.flush()
        _put(path)

    def write_block(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of a block, which is not done before `finish_block`."""
        header = {name: (CODES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
        pieces = (tensor.contiguous().reshape(-1).view(torch.uint8).numpy() for tensor in tensors.values())
        safetensors_writer.write(_new(self.block(number)), header, pieces)

    def finish_block(self, number: int) -> None:
        """The block is done: what it read is needed no more."""
        _put(self.block(number))
        self._states(number).unlink(missing_ok=True)

    def _states(self, number: int) -> Path:
        return self.directory / f"states-{number:05}"

    def result(self) -> Path:
        """An empty directory for the checkpoint."""
        path = self.directory / "result"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def finish(self, result: Path) -> None:
        """Give the checkpoint its name, and clean up."""
        for path in (*result.iterdir(), result):
            sync(path)
        result.rename(self.out)
        sync(self.out.parent)
        shutil.rmtree(self.directory, ignore_errors=True)


def _new(path: Path) -> Path:
    """Where a file is until it is whole."""
    return path.with_name(path.name + _NEW)


def _put(path: Path) -> None:
    """Give a file that is written its name, for good: not even a power cut leaves the name without the content."""
    sync(_new(path))
    _new(path).rename(path)
    sync(path.parent)
