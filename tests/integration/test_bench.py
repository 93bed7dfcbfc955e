"""`job=bench` as a user runs it: on servers of its own, on a router over fake shards, and on nothing."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.listening import listening
from tests.integration.server import free_port
from tests.router_app import endless
from tgi_server.bench import compare
from tgi_server.report import clients
from tgi_server.types import NewSequence, SamplingParams


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tgi_server", "job=bench", *arguments]


async def bench(*arguments: str) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command(*arguments), stdout=pipe, stderr=pipe)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """Options of a server that is in nobody's way."""
    return ["model=smollm2", f"port={free_port()}", f"shard_uds_path={tmp_path}/shard", f"master_port={free_port()}"]


@pytest.mark.alone
async def test_a_router_over_fake_shards(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    async with listening(step_seconds=0.002) as (router, port):
        status, out, err = await bench(
            f"target=http://127.0.0.1:{port}", "clients=[1, 4]", "requests=8", "new_tokens=6", "prompt_tokens=3-5",
            f"output={file}",
        )  # fmt: skip
        assert router.metric("tgi_request_success") == 8 + 1 + 8 + 4
    assert status == 0, err
    assert re.search(r"^ +1 +8 +0 +\d+ +6 ", out, re.MULTILINE) and re.search(r"^ +4 +8 +0 ", out, re.MULTILINE)
    one, four = json.loads(file.read_text())["runs"]
    for run in (one, four):
        assert (run["failed"], run["new_tokens"]) == (0, 6)
        for record in run["records"]:
            assert record["start"] <= record["sent"] < record["arrivals"][0] <= record["arrivals"][-1] <= record["end"]
    assert one["between_tokens"]["p50"] > 0.001
    assert four["tokens_per_second"] > 1.5 * one["tokens_per_second"]


async def test_how_tokens_are_chosen(tmp_path: Path) -> None:
    asked: list[tuple[SamplingParams, int]] = []

    def choose(new: NewSequence, position: int) -> int:
        asked.append((new.sampling, len(new.prompt_ids)))
        return endless(new, position)

    async with listening(choose=choose) as (_, port):
        status, _, err = await bench(
            f"target=http://127.0.0.1:{port}", "requests=3", "warmup=0", "new_tokens=2", "workload=ordinary",
            "job.temperature=0.5", "top_p=0.95", "typical_p=0.9", "repetition_penalty=1.2", "--watermark",
            "sampling_seed=7", f"output={tmp_path}/bench.json",
        )  # fmt: skip
    assert status == 0, err
    assert {repr(sampling) for sampling, _ in asked} == {repr(SamplingParams(
        do_sample=True, temperature=0.5, top_p=0.95, typical_p=0.9, repetition_penalty=1.2, watermark=True, seed=7
    ))}  # fmt: skip
    assert len({length for _, length in asked}) > 1  # not 80 words
    workload = json.loads((tmp_path / "bench.json").read_text())["workload"]
    assert (workload["kind"], workload["sampling"]["top_p"]) == ("ordinary", 0.95)


async def test_an_open_loop(tmp_path: Path) -> None:
    async with listening() as (_, port):
        status, out, err = await bench(
            f"target=http://127.0.0.1:{port}/v1", "request_rate=40", "duration=0.5", "new_tokens=2"
        )
    assert status == 0, err
    assert re.search(r"^ +256 +\d+ +0 ", out, re.MULTILINE)


@pytest.mark.alone
async def test_servers_side_by_side(tmp_path: Path) -> None:
    file, medians = tmp_path / "page.md", tmp_path / "compared.json"
    async with listening(step_seconds=0.001) as (_, fast), listening(step_seconds=0.01) as (_, slow):
        words = [f"fast=http://127.0.0.1:{fast}", f"slow=http://127.0.0.1:{slow}"]
        options = ["--clients=1,2", "--rounds=1", "--duration=0.3", "--new-tokens=5"]
        files = [f"--output={file}", f"--json={medians}"]
        assert await asyncio.to_thread(compare.main, [*words, *options, *files]) == 0
    page = file.read_text()
    ratios = [float(ratio) for ratio in re.findall(r"\| slow \| [\d.]+ \| ([\d.]+) times \|", page)]
    assert len(ratios) == 2 and min(ratios) > 2
    assert "* Cores: " in page and "./scripts/compare fast=" in page
    servers = json.loads(medians.read_text())["servers"]
    rates = {name: [f"{run['tokens_per_second']:.1f}" for run in server["runs"]] for name, server in servers.items()}
    assert rates == {name: re.findall(rf"\| {name} \| ([\d.]+) \|", page) for name in ("fast", "slow")}
    assert clients.main([f"{tmp_path}/out.svg", str(medians)]) == 0
    picture = (tmp_path / "out.svg").read_text()
    assert "fast</text>" in picture and "slow</text>" in picture


async def test_the_configured_server(own: list[str], tmp_path: Path) -> None:
    status, out, err = await bench(*own, "clients=[1,2]", "duration=1", "new_tokens=8", "prompt_tokens=10")
    assert status == 0, err
    assert out.startswith("clients") and len(out.splitlines()) == 4
    assert "Serving on" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "status", "words"), [
    (["target=http://127.0.0.1:9"], 1, ["http://127.0.0.1:9", "no server"]),
    (["target=127.0.0.1:9"], 2, ["target=127.0.0.1:9", "http://"]),
    (["target=http://127.0.0.1:9", "max_batch_size=4"], 2, ["max_batch_size=4", "target"]),
    (["target=http://127.0.0.1:9", "quantize=none"], 2, ["quantize", "target"]),
    (["job=serve", "clients=3"], 2, ["clients=3", "job=bench"]),
    (["port=0"], 2, ["port=0"]),
    (["clients=0"], 2, ["clients=0"]),
    (["temperature=0", "min_p=0.1"], 2, ["min_p=0.1", "temperature=0"]),
    (["workload=poems"], 2, ["workload=poems", "repetitive"]),
    (["response_format={type:regex}"], 2, ["response_format={type:regex}", "JSON"]),
    (["output=/does/not/exist/x"], 2, ["output=/does/not/exist/x"]),
    (["output=/"], 2, ["output=/", "directory"]),
    (["model_id=/does/not/exist", "port=PORT"], 1, ["/does/not/exist"]),
])  # fmt: skip
async def test_mistakes_are_one_line(arguments: list[str], status: int, words: list[str]) -> None:
    returned, out, err = await bench(*(word.replace("PORT", str(free_port())) for word in arguments))
    assert (returned, out) == (status, "")
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and "Traceback" not in err
    for word in words:
        assert word in errors[0]


async def test_ctrl_c_while_a_server_is_silent() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command(f"target=http://127.0.0.1:{port}"), stdout=pipe, stderr=pipe
    )
    await asyncio.wait_for(asked.wait(), 30)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 10)
    server.close()
    assert (process.returncode, err.decode().splitlines()[-1]) == (1, "Error: stopped before everything was measured")


async def test_ctrl_c_ends_the_measurement_and_the_server(own: list[str]) -> None:
    process = subprocess.Popen(
        command(*own, "duration=60"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = iter(process.stdout)
    while "measuring" not in next(lines):
        pass
    children = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest = list(lines)
    process.stdout.close()
    assert process.wait(20) == 1
    assert rest[-1] == "Error: stopped before everything was measured\n"
    assert time.monotonic() - began < 10
    assert not any(child.is_running() for child in children)
