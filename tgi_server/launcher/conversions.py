"""Where converted models are kept, and how one comes into being all at once or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tgi_server.config.paths import cache_home
from tgi_server.config.schema import DType
from tgi_server.launcher.gguf.parts import parts
from tgi_server.launcher.job import Report

_GGUF_VERSION = 2
_PICKLE_VERSION = 1
_TOKENIZER_VERSION = 1
"""Each is raised whenever its converter writes something else: older conversions are not used any more."""

_PARTIAL = ".partial"
_LONGEST_NAME = 54
"""Characters kept of a model's name, so that the whole stays below 255 bytes in any script."""


def of_gguf(source: Path, dtype: DType, conversion_cache: str | None) -> Path:
    """The directory of a converted GGUF file, whether it exists yet or not. A changed file gets another one."""
    identity = " ".join([*map(_fingerprint, parts(source)), str(_GGUF_VERSION)])
    return place("gguf", f"{source.stem[: _LONGEST_NAME - 9]}-{dtype.value}", identity, conversion_cache)


def of_pickles(directory: Path, names: list[str], conversion_cache: str | None) -> Path:
    """The same for .bin files. Their names are common to all models, so the path belongs to the identity."""
    files = [_fingerprint(directory / name) for name in names]
    identity = "\n".join([str(directory.resolve()), *files, str(_PICKLE_VERSION)])
    return place("bin", directory.name, identity, conversion_cache)


def of_tokenizer(directory: Path, sources: Sequence[Path], conversion_cache: str | None) -> Path:
    """The same for a tokenizer that is made of the files `sources`."""
    identity = "\n".join([str(directory.resolve()), *map(_fingerprint, sources), str(_TOKENIZER_VERSION)])
    return place("tokenizer", directory.name, identity, conversion_cache)


def place(kind: str, name: str, identity: str, conversion_cache: str | None) -> Path:
    """The directory for what `identity` tells apart; `name` is only for people."""
    root = expanded(conversion_cache) if conversion_cache else cache_home() / "tgi_server"
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:12]
    return root.absolute() / kind / f"{name[:_LONGEST_NAME]}-{digest}"


def expanded(path: str) -> Path:
    """A path with its ~ replaced; ~NAME of an unknown user stays, where pathlib would raise."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _fingerprint(file: Path) -> str:
    status = file.stat()
    return f"{file.name} {status.st_size} {status.st_mtime_ns}"


def build(target: Path, write: Callable[[Path], None], report: Report) -> None:
    """Make `target` out of what `write` puts into the directory it is given.

    One conversion runs at a time in a cache, so whatever looks half done when the lock is ours is left over from a
    process that died, and is removed. Who waited finds the work done.
    """
    root = target.parent
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
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
            if not path.is_symlink():
                sync(path)
        partial.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk: the name must not survive a power cut without its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
