"""The server of a replica as a child process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tgi_server.config.schema import ServerConfig
from tgi_server.replicas.child import ReplicaFailedError, ServerChild, own_config

LISTENS = """
import signal, socket, sys
from tgi_server.config import load
launch = load.read(sys.stdin)
print("serving", launch.config.model_id, launch.config.api_key, flush=True)
listener = socket.socket(fileno=launch.resolved.listen_fd)
listener.listen()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("told to end", flush=True)))
while True:
    listener.accept()[0].send(b"hello")
"""
FAILS = "import sys; print('some line'); print('Error: no such model', file=sys.stderr); sys.exit(1)"
CONFIG = ServerConfig(model_id="a model", api_key="secret", shutdown_timeout=5)


def started(program: str, ended: Callable[[], None] = lambda: None) -> ServerChild:
    return ServerChild(CONFIG, 4, ended, command=(sys.executable, "-c", program))


async def answers(child: ServerChild) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(child.path)
    except OSError:
        return False
    try:
        return await reader.read(5) == b"hello"
    finally:
        writer.close()


def soon(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


async def test_it_gets_its_configuration_and_is_reached_by_its_user_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    gone: list[bool] = []
    child = started(LISTENS, lambda: gone.append(True))
    try:
        await child.until(lambda: answers(child))
        process = psutil.Process(child.pid)
        assert child.path.parent.stat().st_mode & 0o077 == 0
        assert "secret" not in str([process.cmdline(), process.environ()])
        assert process.environ()["OMP_NUM_THREADS"] == "4"
        assert child.take_lines() == ["serving a model secret"]
    finally:
        child.stop()
    assert child.take_lines() == ["told to end"]
    assert not child.path.parent.exists() and not gone


async def test_one_that_does_not_start_says_why() -> None:
    gone: list[bool] = []
    child = started(FAILS, lambda: gone.append(True))
    with pytest.raises(ReplicaFailedError, match=r"^no such model$"):
        await child.until(lambda: answers(child))
    child.stop()
    child.stop()
    assert not gone, "whoever waits for it is told"


async def test_one_that_ends_by_itself_is_noticed() -> None:
    gone = threading.Event()
    child = started(LISTENS, gone.set)
    await child.until(lambda: answers(child))
    os.kill(child.pid, signal.SIGKILL)
    assert await asyncio.to_thread(gone.wait, 10)
    assert not child.alive
    child.stop()


def test_it_dies_with_who_made_it_and_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import time; from tests.unit.replicas.test_child import LISTENS, started\n"
        "child = started(LISTENS); print(child.pid, child.path, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        pid, path = maker.stdout.readline().split()
        assert psutil.pid_exists(int(pid)) and Path(path).exists()
        maker.kill()
    assert soon(lambda: not psutil.pid_exists(int(pid)))
    assert soon(lambda: not Path(path).parent.exists())


def test_replicas_share_nothing_but_what_they_serve(tmp_path: Path) -> None:
    config = ServerConfig(port=8080, hostname="0.0.0.0", max_client_connections=3, num_shard=2)
    one, other = (own_config(config, tmp_path / name) for name in "ab")
    assert one.shard_uds_path != other.shard_uds_path and str(tmp_path) in one.shard_uds_path
    assert one.master_port != config.master_port
    assert one.max_client_connections is None  # the front counts them
    assert one.model_id == config.model_id and one.num_shard == 2
