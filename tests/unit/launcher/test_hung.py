"""Which child is believed to hang."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tgi_server.launcher.hung import BUSY_SILENCE, LEAVING_SILENCE, PAUSE, ROUTER_SILENCE, SHARD_SILENCE, Signs, Watch
from tgi_server.types import HANGS, LEAVES, SIGN


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeChild:
    name: str
    pid: int
    signs: Signs = field(default_factory=Signs)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    program = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while "S (sleeping)" not in Path(f"/proc/{process.pid}/status").read_text():
            time.sleep(0.01)
        yield process
        process.kill()


def passes(watch: Watch, clock: Clock, child: FakeChild, seconds: float) -> str | None:
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        watch.look([child])
    return watch.problem(child)


@pytest.mark.parametrize(("name", "limit"), [("shard 1", SHARD_SILENCE), ("router", ROUTER_SILENCE)])
def test_silence(name: str, limit: float, sleeper: subprocess.Popen[bytes]) -> None:
    clock = Clock()
    watch, child = Watch(clock), FakeChild(name, sleeper.pid)
    assert passes(watch, clock, child, 100) is None, "it never gave a sign: its model loads"
    child.signs.last = clock.now
    assert passes(watch, clock, child, limit - 0.1) is None
    problem = passes(watch, clock, child, 0.2)
    assert problem is not None and problem.startswith(f"there was no sign of life for {limit + 0.1:.1f} s")


def test_a_process_that_has_no_time_for_signs_is_not_blamed_soon() -> None:
    clock = Clock()
    watch, child = Watch(clock), FakeChild("shard 0", os.getpid())  # it runs, as it asks
    child.signs.last = clock.now
    assert passes(watch, clock, child, BUSY_SILENCE - 0.1) is None
    assert passes(watch, clock, child, 0.2) is not None


def test_a_pause_of_the_whole_machine_is_nobodys_fault(sleeper: subprocess.Popen[bytes]) -> None:
    clock = Clock()
    watch, child = Watch(clock), FakeChild("shard 0", sleeper.pid)
    child.signs.last = clock.now
    clock.now += 60 * PAUSE
    assert passes(watch, clock, child, SHARD_SILENCE) is None
    assert passes(watch, clock, child, 0.2) is not None


def test_a_stopped_process_is_called_so(sleeper: subprocess.Popen[bytes]) -> None:
    clock = Clock()
    watch, child = Watch(clock), FakeChild("shard 0", sleeper.pid)
    child.signs.last = clock.now
    sleeper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
    assert (passes(watch, clock, child, SHARD_SILENCE + 1) or "").startswith("it was stopped (SIGSTOP), and ")


def test_a_child_may_complain_itself_and_take_it_back() -> None:
    clock = Clock()
    watch, child = Watch(clock), FakeChild("shard 0", os.getpid())
    assert child.signs.take(SIGN) and child.signs.take(f"{HANGS}a step has not ended for 130 s")
    assert not child.signs.take("Alive and well, says a library")
    assert watch.problem(child) == "a step has not ended for 130 s"
    assert child.signs.take(SIGN)
    child.signs.last = clock.now
    assert watch.problem(child) is None


@pytest.mark.parametrize("name", ["shard 0", "router"])
def test_who_is_about_to_end_has_time_for_that(name: str, sleeper: subprocess.Popen[bytes]) -> None:
    clock = Clock()
    watch, child = Watch(clock), FakeChild(name, sleeper.pid)
    assert child.signs.take(f"{HANGS}a step has not ended for 130 s") and child.signs.take(LEAVES)
    child.signs.last = clock.now
    assert passes(watch, clock, child, LEAVING_SILENCE - 0.1) is None
    assert passes(watch, clock, child, 0.2) == "it was about to end, and has not for 10.1 s"
