"""A real server in processes of its own, started and stopped as a user would."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import httpx
import psutil

PORTS = range(20_000, 32_000)
"""Below those that Linux gives to whoever asks for any, so that nobody gets one of them before it is used."""
_turns = itertools.count(os.getpid() * 97)  # workers side by side begin at different ones


def free_port() -> int:
    for turn in itertools.islice(_turns, len(PORTS)):
        port = PORTS[turn % len(PORTS)]
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise OSError(f"all ports of {PORTS} are taken")


def series(metrics: str) -> dict[str, float]:
    """The numbers of a text of /metrics by their series."""
    lines = (line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


class Server:
    """`python -m tgi_server ARGUMENTS` with a port and sockets of its own; a context manager.

    Args:
        program: what python is to run instead.
        patience: seconds until it has to be ready, as a context manager.
    """

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "tgi_server"),
        patience: float = 90,
    ) -> None:
        self.patience = patience
        self.port = free_port()
        self.directory = tempfile.TemporaryDirectory(prefix="tgi")
        self.sockets = Path(self.directory.name)
        self.log = self.sockets / "log"
        command = [
            sys.executable, *program, f"port={self.port}", "hostname=127.0.0.1",
            f"master_port={free_port()}", f"shard_uds_path={self.sockets}/shard", *arguments,
        ]  # fmt: skip
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | (env or {}))
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_ready(self, timeout: float = 90) -> float:
        """Seconds from the start to the first 200 of /health."""
        while time.monotonic() < self.started + timeout:
            assert self.process.poll() is None, self.output
            try:
                if self.client.get("/health").status_code == 200:
                    return time.monotonic() - self.started
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise TimeoutError(self.output)

    def family(self) -> list[psutil.Process]:
        """The launcher and all its children."""
        launcher = psutil.Process(self.process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def named(self, module: str) -> list[psutil.Process]:
        """The processes that run `python -m MODULE`."""
        return [p for p in self.family() if module in p.cmdline()]

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 30) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(how)
        return self.process.wait(timeout)

    def generate(self, prompt: str, **parameters: object) -> dict[str, object]:
        """POST /generate; raises for an error status."""
        answer = self.client.post("/generate", json={"inputs": prompt, "parameters": parameters})
        assert answer.status_code == 200, answer.text
        body: dict[str, object] = answer.json()
        return body

    def __enter__(self) -> Server:
        try:
            self.wait_ready(self.patience)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.client.close()
            self.directory.cleanup()
