"""Compiles the kernels for this processor, once, and loads them.

A C++ compiler is all it takes (a few seconds); without one plain torch runs instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from tgi_server.config.paths import cache_home
from tgi_server.kernels.native import layout

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
SOURCES = sorted(HERE.glob("*.cpp"))
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC"]
"""The compiler's; tests change them and get a library of their own."""
_AMX = {"amx_tile", "amx_bf16"}
"""What the kernel calls what a processor needs to multiply bfloat16 in tiles."""
_OFF, _REFUSED, _ABSENT = 1, 2, 3
"""Why the library does not use tiles, as linear.cpp numbers it; 0 when it does."""


class NativeError(Exception):
    """The kernels cannot be had on this machine; the text says why."""


def library() -> ctypes.CDLL:
    """The loaded kernels. Raises NativeError without a compiler or when it fails. torch must be imported before."""
    loaded = _load(tuple(FLAGS))
    if isinstance(loaded, NativeError):
        raise loaded
    return loaded


def tiles() -> str | None:
    """Why products of bfloat16 do not go through the processor's matrix unit; None when they do. Raises NativeError."""
    state = library().tiles()
    if state == _ABSENT:
        return "built without it" if _amx_here() else "this processor has no AMX"
    return {_OFF: "switched off", _REFUSED: "the system refuses the use of AMX (arch_prctl)"}.get(state)


def use_tiles(use: bool) -> None:
    """Let products of bfloat16 go through the matrix unit, where it can be used, or not: to compare the two ways."""
    library().use_tiles(ctypes.c_int64(use))


def matrix_unit() -> str:
    """The matrix unit in use, or why there is none, for people to read. Raises NativeError."""
    reason = tiles()
    return "AMX tiles" if reason is None else f"no matrix unit: {reason}"


def _amx_here() -> bool:
    return any(line.startswith("flags") and set(line.split()) >= _AMX for line in cpu_info())


@cache
def _load(flags: tuple[str, ...]) -> ctypes.CDLL | NativeError:
    """The kernels, or why there are none: tried once, as it is asked for often."""
    directory = cache_home() / "tgi_server" / "native"
    try:
        compiler = shutil.which("g++") or shutil.which("c++")
        if reason := _distrust(directory):
            return _load_aside(compiler, flags, reason)
        path = _built(compiler, directory, flags) or _build_into(compiler, directory, flags)
        return _checked(ctypes.CDLL(str(path)))
    except NativeError as error:
        return error
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or ["it does not say why"]
        return NativeError(f"compiling the kernels failed: {lines[-1]}")


def _checked(loaded: ctypes.CDLL) -> ctypes.CDLL:
    if wrong := layout.mismatches(loaded):
        raise NativeError(f"the compiled library does not fit its callers: {'; '.join(wrong)}")
    return loaded


def _load_aside(compiler: str | None, flags: tuple[str, ...], reason: str) -> ctypes.CDLL:
    """From a directory that is gone at once: some volumes say of all files that everybody may write them."""
    logger.warning("%s: the kernels are compiled anew in each process", reason)
    with tempfile.TemporaryDirectory() as private:
        return _checked(ctypes.CDLL(str(_build_into(compiler, Path(private), flags))))


def _distrust(path: Path) -> str | None:
    """Why no library is to be loaded from this directory, or from this file, as another user could have put it there.
    None if it may be loaded, or is not there.

    The owner's group is trusted: the directory is made for its owner alone, so that somebody let the group in.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if found.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user"
    return f"every user can write to {path}" if found.st_mode & stat.S_IWOTH else None


def _built(compiler: str | None, directory: Path, flags: tuple[str, ...]) -> Path | None:
    """The library that `compiler` made before; where there is no compiler, the newest that any made."""
    maker = "*" if compiler is None else _maker(compiler)
    found = directory.glob(f"kernels-{_key(flags)}-{maker}-*.so")
    latest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in latest if not _distrust(path) and _whole(path)), None)


def _build_into(compiler: str | None, directory: Path, flags: tuple[str, ...]) -> Path:
    if compiler is None:
        raise NativeError("no C++ compiler (g++ or c++) was found")
    return build(compiler, directory, flags)


def _key(flags: tuple[str, ...]) -> str:
    """Changes with the sources, the flags and the processor."""
    sources = [path.read_text() for path in [*SOURCES, *sorted(HERE.glob("*.h"))]]
    return _digest("\n".join([*sources, " ".join(flags), platform.machine(), _processor()]).encode())


@cache
def _maker(compiler: str) -> str:
    """Changes with the compiler's version: an older one may know less of the processor than a newer one will."""
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    return _digest(told.partition("\n")[0].encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _whole(path: Path) -> bool:
    """Whether the file is what was built: loading a damaged library can end the process."""
    return path.stem.endswith(_digest(path.read_bytes()))


def _processor() -> str:
    """What distinguishes this processor from another that reads the same cache."""
    return "\n".join(line for line in cpu_info() if line.startswith(("model name", "flags", "Features")))


def cpu_info() -> list[str]:
    """What the kernel tells about the first processor, line by line; empty where it tells nothing."""
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()[:40]
    except OSError:
        return [platform.processor()]


def build(compiler: str, directory: Path, flags: tuple[str, ...]) -> Path:
    """Compile and link a shared library in `directory`, named by what it is made from, by whom, and what it holds.

    Built beside its place and renamed, so that several shards that start at once do not hurt each other. Linked without
    -fopenmp: the OpenMP calls then find the library that torch has loaded, and share its threads. Raises OSError and
    CalledProcessError.
    """
    _make_private(directory)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        objects = [f"{temporary}/{source.stem}.o" for source in SOURCES]
        commands = [[*flags, "-c", str(source), "-o", out] for source, out in zip(SOURCES, objects, strict=True)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda arguments: _run([compiler, *arguments]), commands))
        linked = Path(temporary, "kernels.so")
        _run([compiler, "-shared", *objects, "-o", str(linked)])
        name = f"kernels-{_key(flags)}-{_maker(compiler)}-{_digest(linked.read_bytes())}.so"
        return linked.replace(directory / name)


def _make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, for this user alone."""
    if not directory.is_dir():
        _make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
