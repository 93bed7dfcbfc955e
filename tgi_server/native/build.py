"""Compiles the kernels for this processor, once, and loads them.

A C++ compiler is all it takes (a few seconds); without one the callers' plain torch versions run instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from tgi_server.config.paths import cache_home

HERE = Path(__file__).parent
SOURCES = sorted(HERE.glob("*.cpp"))
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC"]


class NativeError(Exception):
    """The kernels cannot be had on this machine; the text says why."""


def library() -> ctypes.CDLL:
    """The loaded kernels. Raises NativeError without a compiler or when it fails. torch must be imported before."""
    loaded = _load()
    if isinstance(loaded, NativeError):
        raise loaded
    return loaded


@cache
def _load() -> ctypes.CDLL | NativeError:
    """The kernels, or why there are none: tried once, as it is asked for often."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        return NativeError("no C++ compiler (g++ or c++) was found")
    path = cache_home() / "tgi_server" / "native" / f"kernels-{_key(compiler)}.so"
    try:
        if not path.exists():
            build(compiler, FLAGS, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return NativeError(f"compiling the kernels failed: {detail.strip().splitlines()[-1]}")


def _key(compiler: str) -> str:
    """Changes with the sources, the flags, the compiler and the processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    sources = [path.read_text() for path in [*SOURCES, *sorted(HERE.glob("*.h"))]]
    parts = [*sources, " ".join(FLAGS), version, platform.machine(), _processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What distinguishes this processor from another that reads the same cache."""
    return "\n".join(line for line in cpu_info() if line.startswith(("model name", "flags", "Features")))


def cpu_info() -> list[str]:
    """What the kernel tells about the first processor, line by line; empty where it tells nothing."""
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()[:40]
    except OSError:
        return [platform.processor()]


def build(compiler: str, flags: list[str], path: Path) -> None:
    """Compile and link the shared library `path`. Raises CalledProcessError.

    Built beside `path` and renamed, so that several shards that start at once do not hurt each other. Linked without
    -fopenmp: the OpenMP calls then find the library that torch has loaded, and share its threads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        objects = [f"{directory}/{source.stem}.o" for source in SOURCES]
        commands = [[*flags, "-c", str(source), "-o", out] for source, out in zip(SOURCES, objects, strict=True)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda arguments: _run([compiler, *arguments]), commands))
        linked = f"{directory}/kernels.so"
        _run([compiler, "-shared", *objects, "-o", linked])
        Path(linked).replace(path)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
