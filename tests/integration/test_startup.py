"""What a start costs, and how a server ends."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.server import Server


def maps(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/maps").read_text()


def proportional_memory(process: psutil.Process) -> int:
    return int(process.memory_full_info().pss)


@pytest.mark.alone
def test_first_answer_within_fifteen_seconds_memory_and_imports() -> None:
    with Server("model=smollm2") as server:
        server.generate("Hello", max_new_tokens=1)
        elapsed = time.monotonic() - server.started
        assert elapsed < 15
        # the worst load: a full prefill, then many long answers
        server.generate("word " * 1000, max_new_tokens=4, decoder_input_details=True)
        family = server.family()
        assert len(family) == 4  # and what removes the sockets if the launcher is killed
        torch_users = [p.cmdline() for p in family if "libtorch" in maps(p)]
        assert len(torch_users) == 1 and "tgi_server.shard.main" in torch_users[0]
        total = sum(proportional_memory(p) for p in family)
        print(f"first answer after {elapsed:.1f} s, {total / 2**20:.0f} MiB in all")
        assert total < 1.5e9


def test_a_plain_start_warns_of_nothing(server: Server) -> None:
    start, told, _ = server.output.partition("Serving on")
    assert told and start.splitlines()[-1].endswith("INFO router: ")
    assert [line for line in start.splitlines() if not re.match(r"\S+Z  INFO (launcher|shard-0|router): ", line)] == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_running_request_is_finished_before_the_end(how: signal.Signals) -> None:
    with Server("model=smollm2") as server:
        family = server.family()
        body = {"inputs": "Count:", "parameters": {"max_new_tokens": 60}}
        with server.client.stream("POST", "/generate_stream", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(how)
            last = [line for line in lines if line.startswith("data:")][-1]
        assert '"generated_text":"' in last.replace(": ", ":")
        assert server.process.wait(10) == 0
        assert not any(p.is_running() for p in family)
        assert list(server.sockets.glob("shard*")) == []


def test_a_stale_socket_is_tolerated() -> None:
    server = Server("model=smollm2")
    stale = server.sockets / "shard-0"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(stale))
    with server:
        server.generate("Hello", max_new_tokens=1)
