"""Compiles kernels.cpp for this processor, once, and loads it.

A C++ compiler is all it takes (a few seconds); without one the callers' plain torch versions run instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tgi_server.config.paths import cache_home

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC"]


class NativeError(Exception):
    """The kernels cannot be had on this machine; the text says why."""


@cache
def library() -> ctypes.CDLL:
    """The loaded kernels. Raises NativeError without a compiler or when it fails. torch must be imported before."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise NativeError("no C++ compiler (c++ or g++) was found")
    path = cache_home() / "tgi_server" / "native" / f"kernels-{_key(compiler)}.so"
    try:
        if not path.exists():
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise NativeError(f"compiling the kernels failed: {detail.strip().splitlines()[-1]}") from error


def _key(compiler: str) -> str:
    """Changes with the source, the flags, the compiler and the processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    parts = [SOURCE.read_text(), " ".join(FLAGS), version, platform.machine(), _processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What distinguishes this processor from another that reads the same cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines[:40] if line.startswith(("model name", "flags", "Features")))


def _compile(compiler: str, path: Path) -> None:
    """Build beside `path` and rename, so that several shards that start at once do not hurt each other.

    Linked without -fopenmp: the OpenMP calls then find the library that torch has loaded, and share its threads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        built, linked = f"{directory}/kernels.o", f"{directory}/kernels.so"
        for command in ([*FLAGS, "-c", str(SOURCE), "-o", built], ["-shared", built, "-o", linked]):
            subprocess.run([compiler, *command], check=True, capture_output=True, text=True)
        Path(linked).replace(path)
