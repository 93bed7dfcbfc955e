"""Routers that come and go at the shards of the demo model, which loads once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.server import Server, free_port
from tgi_server.config import cli, load
from tgi_server.launcher import prepare
from tgi_server.launcher.stage import Stage
from tgi_server.launcher.supervise import Programs, StopSignals

PROMPTS = ["The capital of France is", "Once upon a time " * 10]


class Play:
    """A stage, and texts of its servers."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self.stage, self.log, self.port = stage, directory / "log", free_port()
        self.words = [
            "model=smollm2", "hostname=127.0.0.1", f"port={self.port}", f"shard_uds_path={directory}/shard",
            f"master_port={free_port()}", "max_concurrent_requests=8",
        ]  # fmt: skip

    def beside(self, *words: str, work: Callable[[], Any]) -> Any:
        return self.stage.beside(load.composition(cli.parse([*self.words, *words], {})), work, self.log)

    def texts(self) -> list[Any]:
        return [self.post("/generate", prompt, 12).json()["generated_text"] for prompt in PROMPTS]

    def post(self, path: str, prompt: str, new: int) -> httpx.Response:
        body = {"inputs": prompt, "parameters": {"max_new_tokens": new}}
        answer = httpx.post(f"http://127.0.0.1:{self.port}{path}", json=body, timeout=120)
        return answer.raise_for_status()

    def leave_behind(self) -> list[Any]:
        """Go away in the middle of a long text."""
        found = self.texts()
        body = {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 500}}
        with httpx.stream("POST", f"http://127.0.0.1:{self.port}/generate_stream", json=body, timeout=120) as answer:
            next(answer.iter_lines())
        return found


@pytest.fixture
def play() -> Iterator[Play]:
    with tempfile.TemporaryDirectory(prefix="tgi") as name:
        with Stage(cli.parse([], {}), Programs(), prepare.fetched, StopSignals()) as stage:
            yield Play(stage, Path(name))
        assert not list(Path(name).glob("shard*"))


def shards() -> set[int]:
    return {p.pid for p in psutil.Process().children() if "tgi_server.shard.main" in p.cmdline()}


def test_the_same_texts_as_of_a_server_of_its_own(play: Play, server: Server) -> None:
    fresh = [server.generate(prompt, max_new_tokens=12)["generated_text"] for prompt in PROMPTS]
    before = shards()
    seen = []
    for words in (["max_waiting_tokens=5"], ["max_waiting_tokens=7", "max_batch_prefill_tokens=2048"]):
        assert play.beside(*words, work=play.texts) == fresh
        seen.append(shards() - before)
    assert seen[0] == seen[1] and len(seen[0]) == 1
    assert play.log.read_text().count("all shards are ready after") == 1


def test_two_shards_are_handed_over(play: Play) -> None:
    before = shards()
    first = play.beside("num_shard=2", "dtype=float32", work=play.leave_behind)
    pids = shards() - before
    assert play.beside("num_shard=2", "dtype=float32", "max_waiting_tokens=7", work=play.texts) == first
    assert shards() - before == pids and len(pids) == 2
