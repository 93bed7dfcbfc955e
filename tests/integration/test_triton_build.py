"""Triton's compiler needs no GPU, so that what only a GPU can run is at least compiled everywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("triton")

SHARED_MEMORY = 99 * 1024
"""Bytes a program may have on the poorest of the GPUs (compute capability 8.6 and 8.9)."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("capability", "dtype"), [("80", "float32"), ("90", "bfloat16")])
def test_kernels_compile_and_fit(capability: str, dtype: str) -> None:
    command = [sys.executable, "-m", "tests.triton_build", capability, dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines()]
    assert len({name for name, _ in kernels}) == 26
    assert max(int(size) for _, size in kernels) <= SHARED_MEMORY
