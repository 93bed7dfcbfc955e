"""What all tests need: kernels that are interpreted, processes that can be started, logs as they were before.

Without a GPU triton interprets kernels, its own functions too, which has to be settled before anything imports it. Only
this process: servers that tests start decide for themselves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # looked for as files, as importing torch takes a second

if not any(Path(driver).exists() for driver in DRIVERS):
    os.environ["TRITON_INTERPRET"] = "1"
    with suppress(ImportError):
        import triton.language  # noqa: F401
    del os.environ["TRITON_INTERPRET"]

# Tests start processes from one that may have talked gRPC: its handlers of forks end a child before its program starts.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Whatever a test sets up as programs do is gone after it."""
    root, own = logging.getLogger(), logging.getLogger("tgi_server")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
