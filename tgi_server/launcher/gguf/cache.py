"""Where converted models are kept, and how one comes into being all at once or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tgi_server.config.paths import cache_home
from tgi_server.config.schema import DType
from tgi_server.launcher.job import Report

_VERSION = 1
"""Raised whenever the converter writes something else, so that older conversions are not used any more."""

_PARTIAL = ".partial"


def directory(source: Path, dtype: DType, conversion_cache: str | None) -> Path:
    """The directory of the converted `source`, whether it exists yet or not. A changed file gets another one."""
    root = Path(conversion_cache).expanduser() if conversion_cache else cache_home() / "tgi_server"
    status = source.stat()
    identity = f"{source.name} {status.st_size} {status.st_mtime_ns} {_VERSION}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return root.absolute() / "gguf" / f"{source.stem}-{dtype.value}-{digest}"


def build(target: Path, write: Callable[[Path], None], report: Report) -> None:
    """Make `target` out of what `write` puts into the directory it is given.

    One conversion runs at a time in a cache, so whatever looks half done when the lock is ours is left over from a
    process that died, and is removed. Who waited finds the work done.
    """
    root = target.parent
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        report("Waiting for another conversion", 0.0)
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in root.glob(f"*{_PARTIAL}"):
            shutil.rmtree(leftover)
        if not target.is_dir():
            _build_alone(target, write)


def _build_alone(target: Path, write: Callable[[Path], None]) -> None:
    partial = target.with_name(target.name + _PARTIAL)
    partial.mkdir()
    try:
        write(partial)
        for path in (*partial.iterdir(), partial):
            _sync(path)
        partial.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    """Wait until a file or directory is on the disk: the name must not survive a power cut without its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
