"""What a stage keeps from one configuration to the next, with small programs in place of shards and router."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.server import free_port
from tests.models import CONFIG
from tgi_server.config import cli, load
from tgi_server.config.arguments import Composition
from tgi_server.errors import ConfigError, ModelError
from tgi_server.launcher import stage as stages
from tgi_server.launcher.origin import Model
from tgi_server.launcher.stage import Stage
from tgi_server.launcher.supervise import ChildFailedError, Programs, StoppedError, StopSignals

SHARD = """
import os, socket, sys, time
from tgi_server.config import load
launch = load.read(sys.stdin)
print("shard is", os.getpid(), flush=True)
sock = socket.socket(socket.AF_UNIX)
sock.bind(f"{launch.config.shard_uds_path}-{sys.argv[2]}")
sock.listen()
time.sleep(60)
"""
ROUTER = """
import json, os, signal, socket, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from tgi_server.config import load
launch = load.read(sys.stdin)
def leave(*_):
    os.write(1, b"leaving\\n")
    os._exit(int(launch.config.max_best_of == 7))
signal.signal(signal.SIGTERM, leave)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            print("said before", flush=True)
            print("no more", file=sys.stderr, flush=True)
            os._exit(3)
        body = json.dumps([os.getpid(), launch.config.max_waiting_tokens, launch.resolved.model_dir]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=launch.resolved.listen_fd)
server.socket.listen()
server.serve_forever()
"""


class Play:
    """A stage, and what is asked of it."""

    def __init__(self, directory: Path, stage: Stage, stop: StopSignals, port: int, fetched: list[str]) -> None:
        self.directory, self.stage, self.stop, self.port, self.fetched = directory, stage, stop, port, fetched
        self.log = directory / "log"

    def run(self, *words: str) -> Composition:
        uds, address = f"shard_uds_path={self.directory}/uds", ["hostname=127.0.0.1", f"port={self.port}"]
        return load.composition(cli.parse([uds, *address, *words], {}))

    def get(self, path: str = "/", timeout: float = 10) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
            return json.load(answer)

    def beside(self, *words: str, work: Callable[[], Any] | None = None) -> Any:
        return self.stage.beside(self.run(*words), work or self.get, self.log)

    def ask(self, what: str, *words: str, report: Callable[[str, float], None] = lambda *_: None) -> str:
        return self.stage.ask_shards(self.run(*words), "tests.unit.launcher.asked", what, report=report)

    @property
    def shards(self) -> list[int]:
        """The processes that were started."""
        return [int(line.split()[-1]) for line in self.log.read_text().splitlines() if line.startswith("shard is")]


@pytest.fixture
def play() -> Iterator[Play]:
    before = psutil.Process().children()  # servers of other tests
    with tempfile.TemporaryDirectory() as name:  # pytest's own path may be too long for a socket
        directory = Path(name)
        (directory / "shard.py").write_text(SHARD)
        (directory / "router.py").write_text(ROUTER)
        programs = Programs(*([sys.executable, f"{name}/{program}.py"] for program in ("shard", "router")))

        fetched: list[str] = []

        def fetch(options: Any, *_: Any) -> Model:
            fetched.append(options.model_id)
            return Model(directory / options.model_id)

        stop = StopSignals()
        with Stage(cli.parse([], {}), programs, fetch, stop) as stage:
            yield Play(directory, stage, stop, free_port(), fetched)
        assert not list(directory.glob("uds*"))
        assert psutil.Process().children() == before


def test_what_differs_decides_what_is_started_anew(play: Play) -> None:
    first = play.beside("max_waiting_tokens=5")
    assert first[1:] == [5, f"{play.directory}/bigscience/bloom-560m"]
    assert play.beside("max_waiting_tokens=5", "job=bench", "clients=3") == first, "the same router"
    second = play.beside("max_waiting_tokens=6", "max_batch_prefill_tokens=5000")
    assert second[0] != first[0] and second[1] == 6
    assert len(play.shards) == len(play.fetched) == 1
    assert play.beside("max_waiting_tokens=6", "dtype=float16")[0] != second[0]
    assert len(play.shards) == len(play.fetched) == 2 and not psutil.pid_exists(play.shards[0])
    said = play.log.read_text()
    for words in ("shards and router stay", "the shards stay", "all is started anew: shards are made of other dtype"):
        assert said.count(words) == 1


@pytest.mark.parametrize("window", [False, True])
def test_options_of_caches_matter_to_models_with_a_window_only(play: Play, window: bool) -> None:
    (play.directory / "m").mkdir()
    config = CONFIG | {"max_position_embeddings": 256}
    if window:
        config |= {"model_type": "mistral", "sliding_window": 16}
    (play.directory / "m" / "config.json").write_text(json.dumps(config))
    for words in (["max_input_length=100"], ["prefill_chunk_tokens=64", "max_input_length=200"]):
        play.beside("model_id=m", "max_total_tokens=256", *words)
    assert len(play.shards) == 1 + window


def test_another_model_is_not_judged_by_the_one_before(play: Play) -> None:
    play.beside("model_id=one")  # of neither is anything there to be read
    play.beside("model_id=two", "rope_scaling=linear", "max_input_length=100")
    assert play.fetched == ["one", "two"]


def test_options_that_contradict_each_other_leave_the_server_alone(play: Play) -> None:
    first = play.beside()
    with pytest.raises(ConfigError, match="max_batch_prefill_tokens=2: is less than"):
        play.beside("max_batch_prefill_tokens=2")
    assert play.beside() == first


def test_work_that_fails_leaves_the_server_alone(play: Play) -> None:
    first = play.beside()
    with pytest.raises(ZeroDivisionError):
        play.beside(work=lambda: 1 // 0)
    assert play.beside() == first


def test_the_death_of_a_child_ends_the_work_and_tells_its_last_words(play: Play) -> None:
    seen = []

    def work() -> None:
        with contextlib.suppress(OSError):
            play.get("/die")
        began = time.monotonic()
        with contextlib.suppress(OSError):  # the socket is still there, but nobody would answer
            play.get(timeout=60)
        seen.append(time.monotonic() - began)

    play.beside("max_waiting_tokens=5")
    with pytest.raises(ChildFailedError, match="router ended with exit code 3") as error:
        play.beside(work=work)
    assert list(error.value.last_words) == ["said before", "no more"]
    assert seen[0] < 30 and not psutil.pid_exists(play.shards[0])
    assert play.beside()[1] == 20
    assert len(play.shards) == 2


def test_what_died_meanwhile_is_started_anew(play: Play) -> None:
    play.beside()
    shard = psutil.Process(play.shards[0])
    shard.kill()
    while shard.is_running() and shard.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    play.beside()
    assert len(play.shards) == 2 and "shard 0 has ended meanwhile" in play.log.read_text()


@pytest.mark.parametrize("num_shard", [1, 2])
def test_several_shards_do_not_stay_behind_a_router_in_disorder(play: Play, num_shard: int) -> None:
    words = [f"num_shard={num_shard}", f"master_port={free_port()}"]
    play.beside(*words, "max_best_of=7")  # it ends with exit status 1
    play.beside(*words)
    assert len(play.shards) == (4 if num_shard == 2 else 1)


def test_a_signal_ends_work_that_does_not_look(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_MOMENT", 0.2)

    def work() -> None:
        play.stop.request()
        while True:
            play.get(timeout=60)

    with pytest.raises(StoppedError):
        play.beside(work=work)
    assert not psutil.pid_exists(play.shards[0])


def test_shards_are_asked_in_the_routers_place(play: Play) -> None:
    reports = []
    first = play.beside()
    assert play.ask("tell", "max_waiting_tokens=9", report=lambda *told: reports.append(told)).split()[0] == "9"
    assert ("Asking", 0.5) in reports or not reports  # one that is done at once may not have told
    assert not psutil.pid_exists(first[0])
    with pytest.raises(ModelError, match="it cannot be measured"):
        play.ask("fail")
    assert play.beside()[0] != first[0]
    assert len(play.shards) == 1


def test_who_is_told_how_far_it_is_may_end_the_question(play: Play) -> None:
    def report(stage: str, part: float) -> None:
        raise KeyError(stage)

    play.beside()
    with pytest.raises(KeyError, match=r"Asking|Starting"):
        play.ask("wait", report=report)
    play.beside()
    assert len(play.shards) == 1


def test_only_a_file_gets_the_lines_where_one_is_given(play: Play, capfd: pytest.CaptureFixture[str]) -> None:
    play.beside()
    play.stage.__exit__(None, None, None)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    said = play.log.read_text()
    assert "INFO launcher: options that differ" in said and "shard is" in said and "leaving" in said
