"""What stays from one configuration to the next: the demo model on two shards, and real routers at them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.server import free_port
from tgi_server.config import cli, load
from tgi_server.config.arguments import Arguments, Composition
from tgi_server.errors import ConfigError, TgiError
from tgi_server.launcher import prepare
from tgi_server.launcher.stage import Stage
from tgi_server.launcher.supervise import ChildFailedError, Programs, StopSignals


class Theatre:
    """A stage, and what is asked on it."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self.stage = stage
        self.port = free_port()
        self.directory = directory
        self._master = free_port()

    def run(self, *argv: str) -> Composition:
        common = [
            "model=smollm2", "num_shard=2", f"port={self.port}", "hostname=127.0.0.1", "max_concurrent_requests=4",
            f"shard_uds_path={self.directory}/uds", f"master_port={self._master}",
        ]  # fmt: skip
        return load.composition(cli.parse([*common, *argv], {}))

    def text(self, *argv: str) -> str:
        """What the server of a configuration makes of a prompt."""
        return self.stage.beside(self.run(*argv), self.ask, self.directory / "log")

    def ask(self) -> str:
        body = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 8}}
        answer = httpx.post(f"http://127.0.0.1:{self.port}/generate", json=body, timeout=60)
        if answer.status_code != 200:
            raise OSError(f"status {answer.status_code}")
        return str(answer.json()["generated_text"])

    def processes(self, word: str) -> set[int]:
        """Ids of the children whose command has a word."""
        children = psutil.Process().children()
        return {child.pid for child in children if any(word in part for part in child.cmdline())}


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    directory = tmp_path_factory.mktemp("t")
    with Stage(Arguments(), Programs(), prepare.fetched, StopSignals()) as stage:
        yield Theatre(stage, directory)
    assert not psutil.Process().children()
    assert not list(directory.glob("uds*"))


def test_options_of_the_router_bring_another_router_to_the_same_shards(theatre: Theatre) -> None:
    first = theatre.text()
    shards, routers = theatre.processes("shard.main"), theatre.processes("router.main")
    assert (len(shards), len(routers)) == (2, 1)
    assert theatre.text("job=bench", "clients=3") == first  # what concerns the job changes nothing
    assert theatre.processes("router.main") == routers
    for argv in (["max_waiting_tokens=3", "max_batch_prefill_tokens=2048"], ["prefill_chunk_tokens=16"], []):
        assert theatre.text(*argv) == first
        assert theatre.processes("shard.main") == shards
        assert not theatre.processes("router.main") & routers
        routers = theatre.processes("router.main")
    log = (theatre.directory / "log").read_text()
    assert log.count("all shards are ready") == 1
    assert log.count("the shards stay") == 4


def test_limits_are_those_of_the_configuration_at_hand(theatre: Theatre) -> None:
    theatre.text()
    with pytest.raises(OSError, match="422"):
        theatre.text("max_input_length=3")
    with pytest.raises(TgiError, match="max_total_tokens=90000"):
        theatre.text("max_total_tokens=90000")
    with pytest.raises(ConfigError, match="max_best_of"):
        theatre.text("max_best_of=40")


def test_work_that_fails_leaves_the_server_as_it_is(theatre: Theatre) -> None:
    theatre.text()
    before = theatre.processes("tgi_server")

    def fail() -> str:
        raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError):
        theatre.stage.beside(theatre.run(), fail)
    assert theatre.processes("tgi_server") == before


def test_a_program_in_the_routers_place(theatre: Theatre) -> None:
    first = theatre.text()
    shards = theatre.processes("shard.main")
    heard: list[str] = []
    found = theatre.stage.ask_shards(
        theatre.run(), "tgi_server.simulate.probe", "0.5", report=lambda stage, part: heard.append(stage)
    )
    assert json.loads(found)["info"]["dtype"] == "torch.float32" or "bfloat16" in found
    assert heard
    assert not theatre.processes("router.main")
    assert theatre.text() == first
    assert theatre.processes("shard.main") == shards


def test_a_shard_that_dies_is_told_and_all_is_started_anew(theatre: Theatre) -> None:
    first = theatre.text()
    shards = theatre.processes("shard.main")

    def kill() -> str:
        psutil.Process(max(shards)).kill()
        return theatre.ask()

    with pytest.raises(ChildFailedError, match="shard") as caught:
        theatre.stage.beside(theatre.run(), kill, theatre.directory / "log")
    assert any("INFO shard" in line for line in caught.value.last_words)
    assert not theatre.processes("tgi_server")
    assert theatre.text() == first
    assert not theatre.processes("shard.main") & shards


def test_what_concerns_shards_starts_others(theatre: Theatre) -> None:
    theatre.text()
    shards = theatre.processes("shard.main")
    theatre.text("max_total_tokens=1500")
    assert not theatre.processes("shard.main") & shards
