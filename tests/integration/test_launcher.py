"""The launcher with small programs in place of shards and router: real processes, sockets and signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

LAUNCHER = """
import sys, time
from pathlib import Path
from tgi_server.launcher.main import main
from tgi_server.launcher.origin import Model
from tgi_server.launcher.supervise import Programs

def fetch(options, dtype, report, look):
    if options.model_id == "slow":
        for step in range(1000):
            report("Downloading", step / 1000)
            time.sleep(0.02)
    if options.model_id == "from/hub":
        return Model(Path("/model"), "0123", "text-generation")
    return Model(Path(options.model_id if Path(options.model_id).is_dir() else "/model"))

if __name__ == "__main__":
    here = sys.argv[1]
    programs = Programs((sys.executable, here + "/shard.py"), (sys.executable, here + "/router.py"))
    sys.exit(main(sys.argv[2:], programs, fetch))
"""
CHILD = """
import os, signal, socket, subprocess, sys, time
from tgi_server.config import load
launch = load.read(sys.stdin)

def open_socket():
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{launch.config.shard_uds_path}-{rank}")
    sock.listen()
    return sock
"""
SHARD = (
    CHILD
    + """
rank = int(sys.argv[sys.argv.index("--rank") + 1])
names = "OMP_NUM_THREADS", "GOMP_SPINCOUNT"
print("shard", rank, *(os.environ[name] for name in names), flush=True)
"""
)
ROUTER = (
    CHILD
    + """
listener = socket.socket(fileno=launch.resolved.listen_fd)
listener.listen()
found = launch.resolved
print("router knows", found.compute_type, found.model_sha, found.pipeline_tag, found.sha, found.docker_label)
print("router serves", launch.resolved.model_dir, launch.resolved.dtype.name, listener.getsockname()[1], flush=True)
"""
)
SERVE = "sock = open_socket()\ntime.sleep(60)\n"
WAIT = "time.sleep(60)\n"
DRAIN = """
def drain(*_):
    print("draining", flush=True)
    time.sleep(0.1)
    print("drained", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
time.sleep(60)
"""
STUBBORN = "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\nwhile True: time.sleep(1)\n"


class Launcher:
    """A running launcher, its output so far, and all processes it started."""

    def __init__(
        self,
        directory: Path,
        shard: str,
        router: str,
        *arguments: str,
        hangup: signal.Handlers = signal.SIG_DFL,
        **environ: str,
    ) -> None:
        self.directory = directory
        (directory / "launcher.py").write_text(LAUNCHER)
        (directory / "shard.py").write_text(SHARD + shard)
        (directory / "router.py").write_text(ROUTER + router)
        self.log, self.errors = directory / "out", directory / "err"
        command = [
            sys.executable, str(directory / "launcher.py"), str(directory),
            "hostname=127.0.0.1", "port=0", f"shard_uds_path={directory}/uds", *arguments,
        ]  # fmt: skip
        with self.log.open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                env=os.environ | {"PYTHONPATH": str(Path.cwd())} | environ,
                # whoever runs the tests, be it nohup, has left its own choice to this process
                preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
            )
        self.seen: dict[int, psutil.Process] = {}

    @property
    def output(self) -> str:
        return self.log.read_text()

    def until(self, text: str, timeout: float = 10) -> None:
        """Wait for the text in the log, and note who runs by then."""
        deadline = time.monotonic() + timeout
        while text not in self.output:
            assert time.monotonic() < deadline, self.output + self.errors.read_text()
            assert self.process.poll() is None, self.output + self.errors.read_text()
            time.sleep(0.01)
        self.note()

    def note(self) -> None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            self.seen[child.pid] = child

    def child(self, program: str) -> psutil.Process:
        self.note()
        return next(child for child in self.seen.values() if any(program in word for word in child.cmdline()))

    def ends(self, status: int, timeout: float = 10) -> str:
        """Wait for the end, check that nothing is left, and return what was written to standard error."""
        assert self.process.wait(timeout) == status, self.output + self.errors.read_text()
        self.nothing_runs()
        assert list(self.directory.glob("uds*")) == []
        errors = self.errors.read_text()
        assert "Traceback" not in errors
        assert len(errors.splitlines()) == (status != 0), errors
        return errors

    def nothing_runs(self, timeout: float = 3) -> None:
        """Wait for the end of all processes that were seen."""
        deadline = time.monotonic() + timeout
        while alive := [process for process in self.seen.values() if runs(process)]:
            assert time.monotonic() < deadline, alive
            time.sleep(0.01)


def runs(process: psutil.Process) -> bool:
    """False also for a zombie: when its parent is gone, collecting it is the system's business."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


Start = Callable[..., Launcher]


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    started: list[Launcher] = []

    def begin(shard: str, router: str, *arguments: str, **options: Any) -> Launcher:
        started.append(Launcher(tmp_path_factory.mktemp("run"), shard, router, *arguments, **options))
        return started[-1]

    yield begin
    for launcher in started:
        launcher.process.kill()
        launcher.process.wait()


def test_serves_drains_and_ends(start: Start) -> None:
    launcher = start(SERVE, DRAIN, "num_shard=2", "master_port=29617", "dtype=float16")
    launcher.until("router serves /model float16")
    assert "shard 0 1 2000" in launcher.output
    assert "shard 1 1 2000" in launcher.output
    assert len(launcher.seen) == 4, "and what removes their sockets if the launcher is killed"
    launcher.process.terminate()
    launcher.ends(0)
    assert launcher.output.index("draining") < launcher.output.index("drained")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_drain_too(start: Start, number: signal.Signals) -> None:
    launcher = start(SERVE, DRAIN)
    launcher.until("router serves")
    launcher.process.send_signal(number)
    launcher.ends(0)
    assert "drained" in launcher.output


def test_nohup_keeps_it_running(start: Start) -> None:
    """A signal that was ignored when the launcher came to be stays so, in the children too."""
    launcher = start(SERVE, DRAIN, hangup=signal.SIG_IGN)
    launcher.until("router serves")
    for process in [psutil.Process(launcher.process.pid), *launcher.seen.values()]:
        process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert launcher.process.poll() is None
    assert "stopping" not in launcher.output
    launcher.process.terminate()
    launcher.ends(0)
    assert "drained" in launcher.output, "a first signal, not a second one"


def test_tells_how_much_of_the_model_is_loaded(start: Start) -> None:
    told = "print('Progress: 0.25', file=sys.stderr, flush=True)\ntime.sleep(0.5)\n"
    launcher = start(told + SERVE, WAIT)
    launcher.until("Loading the model: 25 %")
    launcher.until("router serves")


def test_the_router_is_told_where_model_and_program_come_from(start: Start) -> None:
    image = {"GIT_SHA": "4567", "DOCKER_LABEL": "sha-4567"}
    launcher = start(SERVE, DRAIN, "model_id=from/hub", "num_shard=2", "master_port=29618", **image)
    launcher.until("router serves")
    assert "router knows 2-cpu 0123 text-generation 4567 sha-4567" in launcher.output
    assert "pipeline tag" not in launcher.output


def test_a_model_without_a_pipeline_tag_is_nothing_to_warn_of(start: Start) -> None:
    launcher = start(SERVE, DRAIN, "model_id=/a/model")
    launcher.until("router serves")
    assert "router knows 1-cpu None None" in launcher.output
    assert "pipeline tag" not in launcher.output and "WARN" not in launcher.output


def test_the_users_number_of_threads_stays(start: Start) -> None:
    launcher = start(SERVE, DRAIN, OMP_NUM_THREADS="7")
    launcher.until("shard 0 7 2000")
    launcher.process.terminate()
    launcher.ends(0)


@pytest.mark.alone
def test_a_second_signal_hastens(start: Start) -> None:
    launcher = start(SERVE, STUBBORN)
    launcher.until("router serves")
    launcher.process.terminate()
    launcher.until("no\n")
    began = time.monotonic()
    launcher.process.terminate()
    launcher.ends(0)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("helper", ["", "subprocess.Popen(['sleep', '60'])\n"], ids=["alone", "grandchild"])
def test_stopped_while_shards_load(start: Start, helper: str) -> None:
    launcher = start(helper + "print('loading', flush=True)\n" + WAIT, WAIT)
    launcher.until("loading")
    assert len(launcher.seen) == (3 if helper else 2)
    launcher.process.terminate()
    launcher.ends(0)
    assert "router" not in launcher.output


def test_stopped_while_weights_are_fetched(start: Start) -> None:
    launcher = start(SERVE, WAIT, "model_id=slow")
    launcher.until("Downloading: 0 %")
    launcher.process.send_signal(signal.SIGINT)
    launcher.ends(0)


@pytest.mark.parametrize("program", ["shard.py", "router.py"])
def test_a_killed_child_ends_all(start: Start, program: str) -> None:
    launcher = start("print('about to work', file=sys.stderr, flush=True)\n" + SERVE, DRAIN)
    launcher.until("router serves")
    launcher.child(program).kill()
    error = launcher.ends(1)
    name = "shard 0" if program == "shard.py" else "router"
    assert error.startswith(f"Error: {name} was ended by signal 9 (killed")
    assert f"{name} was ended by signal 9" in launcher.output
    assert ("about to work" in launcher.output) == (program == "shard.py")


def test_a_child_that_takes_long_to_end_does_not_hang(start: Start) -> None:
    """It ended by itself, for which it has said why."""
    shard = "print('Alive', 'Leaves', 'Error: out of luck', sep='\\n', file=sys.stderr, flush=True)\ntime.sleep(4.5)\n"
    launcher = start(f"sock = open_socket()\n{shard}sys.exit(1)\n", DRAIN)
    assert launcher.ends(1, 20) == "Error: out of luck\n"
    assert "shard 0 ended with exit code 1; its last words:" in launcher.output and "hangs" not in launcher.output


@pytest.mark.parametrize(("end", "status"), [("os.kill(os.getpid(), signal.SIGKILL)", 1), ("1 / 0", 1), ("exit(3)", 0)])
def test_a_router_that_fails_while_it_drains(start: Start, end: str, status: int) -> None:
    armed = "print('armed', flush=True)\ntime.sleep(60)\n"
    launcher = start(SERVE, f"def stop(*_):\n    {end}\nsignal.signal(signal.SIGTERM, stop)\n" + armed)
    launcher.until("armed")
    launcher.process.terminate()
    assert launcher.ends(status).startswith("Error: router " * status)


@pytest.mark.alone
@pytest.mark.parametrize("draining", [False, True])
def test_a_child_that_hangs_ends_all(start: Start, draining: bool) -> None:
    hangs = "signal.signal(signal.SIGUSR2, lambda *_: print('Hangs: for a test', file=sys.stderr, flush=True))\n"
    shows = "import faulthandler\nfaulthandler.register(signal.SIGUSR1)\n"
    said = "print('what it said before', file=sys.stderr, flush=True)\n"
    launcher = start(hangs + shows + said + SERVE, STUBBORN)
    launcher.until("router serves")
    if draining:
        launcher.process.terminate()
        launcher.until("no\n")
    shard, began = launcher.child("shard.py"), time.monotonic()
    shard.send_signal(signal.SIGUSR2)
    assert launcher.ends(1) == f"Error: shard 0 (process {shard.pid}) hangs: for a test\n"
    assert time.monotonic() - began < 10
    assert "most recent call first" in launcher.output
    assert "hangs: for a test; its last words:" in launcher.output and "what it said before" in launcher.output


@pytest.mark.parametrize(("code", "words"), [
    ("os.kill(os.getpid(), signal.SIGILL)", "signal 4 (illegal instruction"),
    ("os.abort()", "signal 6 (aborted"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11 (segmentation fault"),
    ("sys.exit(0)", "shard 0 ended with exit code 0"),
    ("sys.exit(3)", "shard 0 ended with exit code 3"),
])  # fmt: skip
def test_endings_are_readable(start: Start, code: str, words: str) -> None:
    assert words in start(f"print('last', file=sys.stderr)\nsys.stderr.flush()\n{code}\n", WAIT).ends(1)


def test_the_message_of_a_child_is_the_message(start: Start) -> None:
    """Rank 1 knows why; rank 0 ends a little earlier, and a process it started holds its pipes open."""
    shard = """
if rank == 1:
    time.sleep(0.2)
    print("noise", "Error: the model is too large", sep="\\n", file=sys.stderr)
    sys.exit(1)
subprocess.Popen(["sleep", "60"])
raise RuntimeError("connection reset")
"""
    launcher = start(shard, WAIT, "num_shard=2", "master_port=29618")
    assert launcher.ends(1) == "Error: the model is too large\n"


def test_the_killed_one_is_blamed_and_not_those_who_miss_it(start: Start) -> None:
    shard = "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(1)\nraise RuntimeError('peer lost')\n"
    launcher = start(shard, WAIT, "num_shard=2", "master_port=29619")
    assert launcher.ends(1).startswith("Error: shard 1 was ended by signal 9 (killed")


def test_a_defect_of_a_child_shows_its_traceback_in_the_log(start: Start) -> None:
    launcher = start("1 / 0", WAIT)
    assert launcher.ends(1) == "Error: shard 0 ended with exit code 1\n"
    assert "ZeroDivisionError" in launcher.output


@pytest.mark.parametrize("moment", ["Downloading", "shard 0", "router serves"])
def test_a_killed_launcher_leaves_nothing(start: Start, moment: str) -> None:
    launcher = start(SERVE, WAIT, "model_id=slow" if moment == "Downloading" else "model_id=m")
    launcher.until(moment)
    launcher.process.kill()
    launcher.process.wait()
    launcher.nothing_runs()
    assert list(launcher.directory.glob("uds*")) == []


def test_what_a_crash_left_is_no_obstacle(start: Start) -> None:
    crashed = start(SERVE, WAIT)
    crashed.until("router serves")
    crashed.child("-S").kill()  # which would have removed what is left
    crashed.process.kill()
    crashed.process.wait()
    crashed.nothing_runs()
    assert list(crashed.directory.glob("uds*"))
    launcher = start(SERVE, DRAIN, f"shard_uds_path={crashed.directory}/uds")
    launcher.until("router serves")
    launcher.process.terminate()
    launcher.ends(0)
    assert not list(crashed.directory.glob("uds*"))


@pytest.mark.parametrize("model_id", ["m", "slow"], ids=["serving", "loading"])
def test_two_servers_do_not_share_sockets(start: Start, model_id: str) -> None:
    first = start(SERVE, DRAIN, f"model_id={model_id}")
    first.until("router serves" if model_id == "m" else "Downloading")
    second = start(SERVE, WAIT, f"shard_uds_path={first.directory}/uds")
    assert second.ends(1).startswith(f"Error: shard_uds_path={first.directory}/uds: another server")
    assert first.process.poll() is None
    first.process.terminate()
    first.ends(0)


def test_a_busy_port_is_refused_at_once(start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        launcher = start(SERVE, WAIT, f"port={port}", "model_id=slow")
        assert launcher.ends(1).startswith(f"Error: port={port}: ")
        assert "Downloading" not in launcher.output


def test_a_port_that_another_server_will_use_is_refused(start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    first = start(SERVE, DRAIN, f"port={port}", "model_id=slow")
    first.until("Downloading")
    assert start(SERVE, WAIT, f"port={port}").ends(1).startswith(f"Error: port={port}: ")


@pytest.mark.parametrize(("arguments", "environ", "status", "words"), [
    ([], {"NUM_SHARD": "two"}, 2, ["num_shard=two", "environment variable NUM_SHARD"]),
    (["shard_uds_path=/nowhere/at/all"], {}, 1, ["shard_uds_path=/nowhere/at/all"]),
    (["hostname=203.0.113.9"], {}, 1, ["hostname=203.0.113.9"]),
])  # fmt: skip
def test_mistakes_are_one_line(
    start: Start, arguments: list[str], environ: dict[str, str], status: int, words: list[str]
) -> None:
    error = start(SERVE, WAIT, *arguments, **environ).ends(status)
    assert error.startswith("Error: ")
    for word in words:
        assert word in error


def test_the_log_tells_changed_options_and_ignored_variables(start: Start) -> None:
    launcher = start(
        SERVE, DRAIN, "json_output=true", "log_level=debug",
        MAX_BATCH_SIZE="3", PORT="tcp://10.0.0.1:80", MASTER_PORT="tcp://x",
    )  # fmt: skip
    launcher.until('"message": "router: router serves')
    launcher.process.terminate()
    launcher.ends(0)
    lines = [json.loads(line) for line in launcher.output.splitlines()]
    assert {line["target"] for line in lines} == {"text_generation_launcher"}
    text = "\n".join(line["fields"]["message"] for line in lines)
    assert "max_batch_size=3 (environment variable MAX_BATCH_SIZE)" in text
    assert "json_output=true (command line)" in text
    assert "MASTER_PORT=tcp://x is ignored" in text


@pytest.mark.parametrize(("flag", "words"), [
    ("--help", "--max-batch-size"), ("-V", "tgi_server "), ("--cfg=job", "model_id: bigscience/bloom-560m"),
])  # fmt: skip
def test_printing_instead_of_serving(flag: str, words: str) -> None:
    result = subprocess.run([sys.executable, "-m", "tgi_server", flag], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert words in result.stdout


def test_the_launcher_is_light() -> None:
    heavy = {"torch", "transformers", "numpy", "grpc", "hydra"}
    code = f"import sys, tgi_server.launcher.main; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
