"""What becomes of a server under load when parts of it are killed, stopped or starved. See scripts/chaos."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from scripts.chaos_clients import CLOSED, FINISHED, Crowd, whole
from tests.integration.server import Server, series

WHOLE = 2
"""Clients that do not stream, beside those that do."""
LONG, SHORT = 900, 24
"""New tokens of answers that are not to end by themselves, and of those that are."""
POISON = 40_000
"""A token that the shard of the scene `step` cannot stand."""
LIMITS = ("max_total_tokens=1024", "max_input_length=64", "max_batch_size=48")
SHARD, ROUTER = "tgi_server.shard.main", "tgi_server.router.main"
FAILED = {"event generation", "424 generation"}
"""How requests end when the shards are lost."""

LAUNCHER = f"""
import sys
from tgi_server.launcher.main import main
from tgi_server.launcher.supervise import Programs

SHARD = '''
import sys
from tgi_server.shard import main, runner

original = runner.best_forward

def best_forward(*arguments):
    run = original(*arguments)
    def poisoned(inputs):
        hidden = run(inputs)
        if {POISON} in inputs.ids.tolist():
            raise MemoryError("no memory for this one")
        return hidden
    return poisoned

runner.best_forward = best_forward
del sys.argv[1]
sys.exit(main.main())
'''
sys.exit(main(programs=Programs(shard=[sys.executable, "-c", SHARD, "{SHARD}"])))
"""


class NotHereError(Exception):
    """This machine does not let a scene be played."""


@dataclass
class Result:
    """What came of a scene; `problems` are the differences from what is documented, seconds count from the fault."""

    scene: str
    noticed: float | None = None
    ended: float | None = None
    answered: float | None = None
    status: int | None = None
    ends: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    skipped: str | None = None

    def check(self, holds: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(problem)

    def row(self) -> str:
        """A line of the table."""
        if self.skipped is not None:
            return f"{self.scene:<13} not played: {self.skipped}"
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        times = " ".join(f"{'' if s is None else f'{s:.1f}':>8}" for s in (self.noticed, self.answered, self.ended))
        status = "" if self.status is None else self.status
        return f"{self.scene:<13}{times} {status:>6}  {ends or '-'}  {'; '.join(self.problems) or 'as documented'}"


HEAD = f"{'scene':<13}{'noticed':>8} {'answered':>8} {'ended':>8} {'status':>6}  requests"


class Play:
    """A server, its clients, and what they leave behind."""

    def __init__(self, server: Server, clients: int, scratch: Path) -> None:
        self.server, self.clients = server, clients
        self._scratch = scratch
        self._family = server.family()
        self._shared = _shared_memory()

    def crowd(self, new_tokens: int = LONG) -> Crowd:
        """Clients of this server that have not come yet."""
        return Crowd(str(self.server.client.base_url), self.clients, WHOLE, new_tokens)

    def one(self, module: str) -> psutil.Process:
        """The process that runs a module."""
        (process,) = self.server.named(module)
        return process

    async def end(self, result: Result, began: float, within: float) -> None:
        """Wait for the end of the service, and look for what is left."""
        while self.server.process.poll() is None and time.monotonic() - began < within + 15:
            if result.noticed is None and " ERROR launcher" in self.server.output:
                result.noticed = time.monotonic() - began
            await asyncio.sleep(0.02)
        result.ended, result.status = time.monotonic() - began, self.server.process.poll()
        result.check(result.status is not None, "it did not end")
        result.check(result.ended <= within, f"later than {within:g} s")
        await asyncio.to_thread(self._leftovers, result)

    def _leftovers(self, result: Result) -> None:
        for process in psutil.wait_procs(self._family, timeout=3)[1]:
            with suppress(psutil.NoSuchProcess):
                result.check(process.status() == psutil.STATUS_ZOMBIE, f"left: {' '.join(process.cmdline())[:60]}")
        result.check(not list(self.server.sockets.glob("shard*")), "sockets are left")
        result.check(not _shared_memory() - self._shared, "shared memory is left")
        names = [path.name for path in self._scratch.iterdir() if not path.name.startswith("torchinductor_")]
        result.check(not names, f"temporary files are left: {' '.join(names)}")


def _shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if path.owner() == _owner()}


def _owner() -> str:
    return psutil.Process().username()


async def killed(play: Play, victim: str, how: signal.Signals, within: float, ends: set[str], status: int) -> Result:
    """A signal to a part of the server while clients are served."""
    result, crowd = Result("kill" if how == signal.SIGKILL else "stop"), play.crowd()
    result.scene += f"-{victim}"
    await crowd.start()
    modules = {"shard": SHARD, "router": ROUTER}
    process = psutil.Process(play.server.process.pid) if victim == "launcher" else play.one(modules[victim])
    began = time.monotonic()
    process.send_signal(how)
    ending = asyncio.create_task(play.end(result, began, within))
    result.check(await crowd.wait(within + 15), "requests stay open")
    result.answered, result.ends = time.monotonic() - began, crowd.ends
    await ending
    result.check(set(crowd.ends) <= ends, f"expected {' or '.join(sorted(ends))}")
    result.check(result.status == status, f"exit status {status} was expected")
    if how == signal.SIGSTOP:
        output, soon = play.server.output, 11 if victim == "router" else 5
        result.check(result.noticed is not None and result.noticed <= soon, f"not noticed within {soon} s")
        result.check(f"(process {process.pid}) hangs: it was stopped" in output, "it is not named")
        result.check("most recent call first" in output, "no stack is shown")
    return result


async def cut(play: Play) -> Result:
    """All clients go away; their places and blocks are given back, and as many others are served."""
    result, crowd = Result("cut"), play.crowd()
    await crowd.start()
    began = time.monotonic()
    await crowd.cut()
    async with httpx.AsyncClient(base_url=crowd.url) as client:
        while any(await _busy(client)):
            if time.monotonic() - began > 5:
                result.problems.append("places are not given back within 5 s")
                break
            await asyncio.sleep(0.05)
    result.noticed = time.monotonic() - began
    return await _serves(play, result)


async def _busy(client: httpx.AsyncClient) -> list[float]:
    numbers = series((await client.get("/metrics")).text)
    return [numbers[name] for name in ("tgi_queue_size", "tgi_batch_current_size", "tgi_batch_current_max_tokens")]


async def _serves(play: Play, result: Result) -> Result:
    """New requests, one for each permit, are served."""
    after = play.crowd(SHORT)
    await after.start()
    await after.wait(120)
    result.ends += after.ends
    result.check(after.ends == {FINISHED: play.clients + WHOLE}, "the next requests are not all served")
    return result


async def step(play: Play) -> Result:
    """One prompt fails its step; all others go on."""
    result, crowd = Result("step"), play.crowd(60)
    await crowd.start()
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=crowd.url, timeout=60) as client:
        failed = await whole(client, {"model": "x", "prompt": [POISON, 5], "max_tokens": 5}, "/v1/completions")
    result.answered = time.monotonic() - began
    await crowd.wait(120)
    result.ends = Counter([f"{failed} (the one)"]) + crowd.ends
    result.check(failed.startswith("500"), "the request that fails should get 500, as on /v1/*")
    result.check(crowd.ends == {FINISHED: play.clients + WHOLE}, "others suffer")
    result.check("MemoryError: no memory for this one" in play.server.output, "the log does not tell")
    return result


async def term(play: Play) -> Result:
    """SIGTERM: what runs is finished."""
    result, crowd = Result("term"), play.crowd(60)
    await crowd.start()
    began = time.monotonic()
    play.server.process.terminate()
    ending = asyncio.create_task(play.end(result, began, 90))
    await crowd.wait(100)
    result.answered, result.ends, result.noticed = time.monotonic() - began, crowd.ends, None
    await ending
    result.check(crowd.ends == {FINISHED: play.clients + WHOLE}, "not all were finished")
    result.check(result.status == 0, "exit status 0 was expected")
    return result


async def starved(play: Play) -> Result:
    """The shard gets no memory any more: the kernel kills it."""
    result, crowd = Result("memory"), play.crowd()
    with _small_group() as group:
        await crowd.start()
        began = time.monotonic()
        (group / "cgroup.procs").write_text(str(play.one(SHARD).pid))
        ending = asyncio.create_task(play.end(result, began, 20))
        await crowd.wait(40)
        result.answered, result.ends = time.monotonic() - began, crowd.ends
        await ending
    result.check(set(crowd.ends) <= FAILED, f"expected {' or '.join(sorted(FAILED))}")
    result.check(result.status == 1 and "often because memory ran out" in play.server.output, "status 1, and why")
    return result


@contextmanager
def _small_group() -> Iterator[Path]:
    """A control group of processes that get hardly any new memory."""
    for root, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"tgi-chaos-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(str(256 * 1024))
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            with suppress(OSError):
                group.rmdir()
        return
    raise NotHereError("no control group can be made")


def full() -> Result:
    """The directory for converted models is full: the start fails in one line and leaves nothing there."""
    result, began = Result("full"), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tgi-full") as name:
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tgi-chaos", name]
        if subprocess.run(mount, capture_output=True).returncode:
            raise NotHereError("no small file system can be mounted")
        try:
            server = Server("model=smollm2", f"conversion_cache={name}")
            result.status = server.process.wait(60)
            result.ended = time.monotonic() - began
            errors = [line for line in server.output.splitlines() if line.startswith("Error: ")]
            result.check(result.status == 1, "exit status 1 was expected")
            result.check(len(errors) == 1 and name in errors[0] and "No space left" in errors[0], f"unclear: {errors}")
            result.check("Traceback" not in server.output, "a traceback")
            left = [path for path in Path(name).rglob("*") if path.is_file() and path.name != ".lock"]
            result.check(not left, "files are left")
            server.__exit__(None, None, None)
        finally:
            subprocess.run(["umount", name], check=True)
    return result


Scene = Callable[[Play], Awaitable[Result]]


def _kill(victim: str, how: signal.Signals, within: float, ends: set[str], status: int = 1) -> Scene:
    return lambda play: killed(play, victim, how, within, ends, status)


PLAYS: dict[str, Sequence[Scene]] = {
    "kill-shard": [_kill("shard", signal.SIGKILL, 5, FAILED)],
    "kill-router": [_kill("router", signal.SIGKILL, 5, {CLOSED})],
    "kill-launcher": [_kill("launcher", signal.SIGKILL, 5, {CLOSED}, -signal.SIGKILL)],
    "stop-shard": [_kill("shard", signal.SIGSTOP, 10, FAILED)],
    "stop-router": [_kill("router", signal.SIGSTOP, 16, {CLOSED})],
    "survives": [cut, step, term],
    "memory": [starved],
}
"""What is played on one server after the other; the scenes of one, in turn."""


def play(name: str, clients: int) -> list[Result]:
    """What came of a play of PLAYS, or of `full`."""
    try:
        return [full()] if name == "full" else asyncio.run(_on_a_server(PLAYS[name], clients))
    except NotHereError as why:
        return [Result(name, skipped=str(why))]


async def _on_a_server(scenes: Sequence[Scene], clients: int) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="tgi-scratch") as scratch:
        options = ("model=smollm2", f"max_concurrent_requests={clients + WHOLE + 1}", *LIMITS)
        with Server(*options, env={"TMPDIR": scratch}, program=("-c", LAUNCHER)) as server:
            here = Play(server, clients, Path(scratch))
            return [await scene(here) for scene in scenes]


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=f"of {', '.join([*PLAYS, 'full'])}; all by default")
    arguments = parser.parse_args()
    results = []
    print(HEAD, flush=True)
    for _ in range(arguments.rounds):
        for name in arguments.scenes or [*PLAYS, "full"]:
            for result in play(name, arguments.clients):
                results.append(result)
                print(result.row(), flush=True)
    bad = sum(bool(result.problems) for result in results)
    print(f"{len(results)} scenes in {arguments.rounds} rounds, {bad} not as documented")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
