"""Servers that run side by side: ours as a user starts it, and llama.cpp's."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from scripts.quantisation.contenders import Contender
from scripts.quantisation.models import Model
from tests.integration.server import Server, free_port
from tgi_server.host import usable_cores

MOST_CLIENTS = 32
ROOM = 256
"""Tokens of cache a client: 80 of the prompt, give or take, and 128 new ones."""
LIMIT = 180.0
"""Seconds that a start may take."""


def ours(model: Model, contender: Contender, *options: str, env: dict[str, str] | None = None) -> Server:
    """A server of ours that is being started."""
    return Server(*model.options(contender), f"max_batch_total_tokens={MOST_CLIENTS * ROOM}", *options, env=env)


@contextmanager
def running(server: Server) -> Iterator[float]:
    """Until it is stopped; gives the seconds its start took."""
    try:
        yield server.wait_ready(LIMIT)
    finally:
        server.__exit__(None, None, None)


@contextmanager
def llama(program: Path, file: Path) -> Iterator[int]:
    """llama.cpp's server with a place for each client; gives its port."""
    port, threads = free_port(), str(usable_cores())
    command = [
        program, "--model", file, "--port", str(port), "--parallel", str(MOST_CLIENTS),
        "--ctx-size", str(MOST_CLIENTS * ROOM), "--threads", threads, "--threads-batch", threads, "--cache-ram", "0",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        if process.poll() is not None:
            sys.exit(f"Error: {process.args!r} ended with status {process.returncode}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit(f"Error: llama.cpp's server was not ready within {LIMIT:g} s")
