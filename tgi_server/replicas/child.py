"""The server of a replica: a launcher of its own, started as a child, at a socket that only this user can reach."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from tgi_server.config import load
from tgi_server.config.schema import Launch, Resolved, ServerConfig
from tgi_server.errors import TgiError
from tgi_server.launcher.leftovers import Leftovers
from tgi_server.launcher.process import HUB_TOKENS, end_with, environment, for_child

_COMMAND = (sys.executable, "-m", "tgi_server.launcher.configured")
_KEPT = 10_000
"""Log lines that are kept until somebody takes them."""
_MARGIN = 10.0
"""Seconds beyond `shutdown_timeout` that it has to end."""
_POLL = 0.1
_PREFIX = "Error: "


class ReplicaFailedError(TgiError):
    """The server of a replica ended that should not have."""


class ServerChild:
    """A server that serves `config`, but for what each replica has of its own: addresses and sockets.

    It ends with the thread that makes this object, whatever ends that.

    Attributes:
        path: where it is served: a unix socket.

    Args:
        threads: processors that its shards compute with together.
        ended: called in a thread when it has ended without being told to, once `until` has found that it serves.
        place: where its own directory is made.
        command: what is run.
    """

    def __init__(
        self, config: ServerConfig, threads: int, ended: Callable[[], None], place: Path | None = None,
        command: tuple[str, ...] = _COMMAND,
    ) -> None:  # fmt: skip
        self._directory = Path(tempfile.mkdtemp(prefix="tgi-replica-", dir=place))
        self.path = self._directory / "http"
        self._config = own_config(config, self._directory)
        self._leftovers = Leftovers([self._directory])
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._last = "it said nothing"
        self._ended = ended
        self._told = False
        self._served = False
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path))
            self._process = self._started(command, listener.fileno(), threads)
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The number of its launcher."""
        return self._process.pid

    async def until(self, answers: Callable[[], object]) -> None:
        """Wait until `await answers()` is true. Raises ReplicaFailedError, with its last words, when it ends before."""
        while self.alive:
            if await answers():  # type: ignore[misc]  # a coroutine function
                self._served = True
                break
            await asyncio.sleep(_POLL)
        if not self.alive:
            self._reader.join(1.0)
            raise ReplicaFailedError(self.last_words)

    @property
    def last_words(self) -> str:
        """The last line that it wrote, often its own message."""
        return self._last.removeprefix(_PREFIX)

    def take_lines(self) -> list[str]:
        """The lines of its log since the last call."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._lines.popleft())
        return taken

    def stop(self) -> None:
        """Have it finish its requests and end, and wait for that; again does nothing."""
        if self._told:
            return
        self._told = True
        if self.alive:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._config.shutdown_timeout + _MARGIN)
        if self.alive:
            self._process.kill()  # its children end with it
            self._process.wait()
        self._reader.join(_POLL)  # of its last lines
        self._leftovers.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _started(self, command: tuple[str, ...], number: int, threads: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(self._config, threads),
            pass_fds=[number],
            start_new_session=True,
            preexec_fn=end_with(os.getpid()),
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # with what is secret, so by no other way
            stdin.write(load.dump(Launch(self._config, Resolved(listen_fd=number))).encode())
        return process

    def _read(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                text = line.decode(errors="replace").rstrip("\n")
                self._lines.append(text)
                self._last = text or self._last
        self._process.wait()
        if self._served and not self._told:
            self._ended()


def own_config(config: ServerConfig, directory: Path) -> ServerConfig:
    """The configuration of one replica, whose sockets are in `directory`.

    Connections are counted, and tunnels opened, where clients are.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = probe.getsockname()[1]
    return replace(
        config,
        hostname="127.0.0.1",
        port=0,
        max_client_connections=None,
        shard_uds_path=str(directory / "shard"),
        master_port=meeting,
    )


def _environment(config: ServerConfig, threads: int) -> dict[str, str]:
    """That of this process: with who asks the hub, the threads of each shard in place of Ray's number of them, and
    without what opens Ray to those who know it."""
    shards = 1 if config.sharded is False else config.num_shard or 1
    tokens = {name: value for name, value in environment().items() if name in HUB_TOKENS}
    found = for_child({**tokens, "OMP_NUM_THREADS": str(max(1, threads // shards))})
    return {name: value for name, value in found.items() if not name.startswith("RAY_")}
