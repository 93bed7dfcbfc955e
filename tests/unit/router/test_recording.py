"""`record_traffic`: what was served, as lengths and arrivals."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, takewhile
from pathlib import Path

import pytest

from tests.router_app import TOKENIZER, Router, says, started
from tests.unit.router.http.test_stream import opening
from tests.unit.router.native.test_native import post
from tgi_server import traffic
from tgi_server.bench.options import BenchOptions
from tgi_server.bench.workload import Workload
from tgi_server.errors import ConfigError
from tgi_server.router.http.recording import Blocks, Recorder
from tgi_server.router.http.stream import token_chunks
from tgi_server.traffic import Asked, Traffic
from tgi_server.types import BLOCK_SIZE

PROMPT = list(range(100))


async def closed(router: Router) -> None:
    """What the end of serving does."""
    await router.app.startup()
    await router.app.shutdown()


async def test_a_served_traffic_is_that_of_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    served = (Asked(0, 30, 2), Asked(1, 60, 3, 0, 30), Asked(2, 20, 4), Asked(3, 80, 5, 1, 60))
    traffic.write(tmp_path / "made", Traffic(served))
    work = Workload.of(BenchOptions(traffic=str(tmp_path / "made"), clients="1"))
    texts = [request.text for request in islice(work.asked("run 0"), 4)]
    lengths = [len(TOKENIZER.encode(text).ids) for text in texts]
    async with started(record_traffic=str(path), prefix_caching=False) as router:
        for text, asked in zip(texts, served, strict=True):
            body = {"prompt": text, "max_tokens": asked.new, "ignore_eos": True}
            _, answer, _ = await post(router, "/v1/completions", body)
            assert answer["usage"]["prompt_tokens"] in lengths
        await closed(router)
    recorded = traffic.read(path).requests
    assert [asked.prompt for asked in recorded] == lengths
    assert [asked.new for asked in recorded] == [2, 3, 4, 5]
    assert [asked.like for asked in recorded] == [None, 0, None, 1]
    for line, like in ((1, 0), (3, 1)):  # all of the earlier prompt, but what does not fill a block
        one, other = (TOKENIZER.encode(texts[number]).ids for number in (line, like))
        alike = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
        assert recorded[line].shared == alike // BLOCK_SIZE * BLOCK_SIZE > 0
    assert 0 <= recorded[0].at <= recorded[-1].at < 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    about, *lines = map(json.loads, path.read_text().splitlines())
    assert about == {"traffic": 1, "about": "recorded from a server"}
    assert {type(value) for line in lines for value in line.values()} == {int, float}  # neither texts nor hashes


async def test_each_api_leaves_a_line_and_failures_none(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    async with started(says("Paris.", then_eos=False), record_traffic=str(path)) as router:
        message = [{"role": "user", "content": "the fox"}]
        await post(
            router, "/generate", {"inputs": "the", "parameters": {"max_new_tokens": 3, "best_of": 2, "do_sample": True}}
        )
        await post(router, "/generate_stream", {"inputs": "the fox", "parameters": {"max_new_tokens": 4}})
        await post(router, "/v1/chat/completions", {"messages": message, "max_tokens": 5, "n": 2})
        await post(router, "/v1/completions", {"prompt": ["the", "fox"], "max_tokens": 6})
        await post(router, "/v1/messages", {"model": "m", "messages": message, "max_tokens": 7})
        await post(router, "/v1/responses", {"input": "the fox", "max_output_tokens": 16})
        await post(router, "/generate", {"inputs": "the", "parameters": {"max_new_tokens": 0}})
        await closed(router)
    assert [asked.new for asked in traffic.read(path).requests] == [3, 4, 5, 6, 6, 7, 16]


async def test_a_client_that_goes_away_counts_with_what_it_got(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t")
    with ThreadPoolExecutor(1) as pool:
        async with started(step_seconds=0.01) as router:
            for tokens in (2, 0):  # one goes away before anything was generated
                chunks = token_chunks(*opening(router, pool, 500, recorder=recorder))
                for _ in range(1 + tokens):
                    await anext(chunks)
                await chunks.aclose()
    recorder.close()
    (asked,) = traffic.read(tmp_path / "t").requests
    assert 2 <= asked.new < 500


def test_a_recording_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for _ in range(2):
        recorder = Recorder(path)
        for moment in (50.0, 53.0):
            recorder.arrived(moment)
            recorder.ended(moment, PROMPT, 4)
        recorder.close()
    assert traffic.read(path).requests == (
        Asked(0.0, 100, 4), Asked(3.0, 100, 4, 0, 96), Asked(3.0, 100, 4), Asked(6.0, 100, 4, 2, 96),
    )  # fmt: skip
    assert path.read_bytes().count(b"traffic") == 1


def test_lines_are_in_the_order_of_ends_and_arrivals_as_they_were(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t")
    for moment in (1.0, 2.0):
        recorder.arrived(moment)
    recorder.ended(2.0, PROMPT, 4)
    recorder.ended(1.0, PROMPT[:40], 5)
    recorder.ended(1.0, PROMPT, 0)
    recorder.close()
    read = traffic.read(tmp_path / "t")
    assert read.requests == (Asked(1.0, 100, 4), Asked(0.0, 40, 5, 0, 32))
    assert list(read.order) == [1, 0]


def test_lines_are_there_within_a_second(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t")
    recorder.ended(1.0, PROMPT, 4)
    deadline = time.monotonic() + 5
    while b"prompt" not in (tmp_path / "t").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    recorder.close()


def test_a_full_disk_ends_the_recording_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path / "t")
    recorder.ended(1.0, PROMPT, 4)
    while b"prompt" not in (tmp_path / "t").read_bytes():
        time.sleep(0.01)
    write, writes = os.write, []

    def fills(file: int, data: bytes) -> int:
        writes.append(data)
        if len(writes) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:5])

    monkeypatch.setattr(os, "write", fills)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            recorder.ended(2.0, PROMPT, 4)
        recorder.close()
    assert [record.message for record in caplog.records] == [
        f"record_traffic={tmp_path / 't'}: cannot be written (No space left on device); recording stops"
    ]
    assert len(traffic.read(tmp_path / "t").requests) == 1  # no half line


@pytest.mark.parametrize("path", ["/dev/full", "/", "/nowhere/x", "/proc/x", __file__])
def test_files_that_cannot_be_written_or_are_something_else(path: str) -> None:
    with pytest.raises(ConfigError, match=f"^record_traffic={path}: "):
        Recorder(Path(path))


def test_few_blocks_are_remembered() -> None:
    blocks = Blocks(most=4)
    one, other = [b"a", b"b", b"c"], [b"d", b"e"]
    assert blocks.shared(one, 0) == (None, 0)
    assert blocks.shared(one, 1) == (0, 3 * BLOCK_SIZE)
    assert blocks.shared(other, 2) == (None, 0)
    assert blocks.shared(one, 3) == (0, 2 * BLOCK_SIZE)  # the end of it was forgotten


def test_each_remembers_who_had_a_block_first() -> None:
    blocks = Blocks()
    blocks.shared([b"s"], 0)
    assert blocks.shared([b"s", b"a"], 1) == (0, BLOCK_SIZE)
    assert blocks.shared([b"s", b"b"], 2) == (0, BLOCK_SIZE)
    assert blocks.shared([b"s", b"b", b"c"], 3) == (2, 2 * BLOCK_SIZE)
