"""Replicas on Ray Serve, on this machine: as one server for clients, whatever becomes of one of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest

from scripts.replicas import hits, words
from tests.integration.server import Server, series

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray Serve is not installed: pip install 'tgi-server[ray]'"),
]

COMMON = ["model=smollm2", "max_concurrent_requests=16", "max_input_length=700", "max_total_tokens=1024"]
PATIENCE = 240.0
"""Seconds for what takes ten on a machine that does nothing else."""
PROMPTS = [f"{number}. {words(number, 20)}. Once upon a time" for number in range(8)]
OPEN = "tgi_request_open"


@pytest.fixture(scope="module")
def one() -> Iterator[Server]:
    with Server(*COMMON, patience=PATIENCE) as server:
        yield server


@pytest.fixture(scope="module")
def replicas() -> Iterator[Server]:
    with Server("deployment=ray", "replicas=2", *COMMON, patience=PATIENCE) as server:
        yield server


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def running(server: Server) -> int:
    """Replicas that tell their metrics."""
    return sum(name.startswith(f"{OPEN}{{") for name in series(server.client.get("/metrics").text))


def under_way(server: Server) -> list[float]:
    """Requests at each replica."""
    told = series(server.client.get("/metrics").text)
    return [value for name, value in told.items() if name.startswith(f"{OPEN}{{")]


def actors(server: Server) -> list[psutil.Process]:
    """The processes of Ray that hold the replicas."""
    found = []
    for process in server.family():
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ServeReplica"):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def stream(client: httpx.AsyncClient, prompt: str, new_tokens: int, times: list[float] | None = None) -> str:
    """The text of an answer, or its error after `Error: `."""
    text = ""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": new_tokens}}
    async with client.stream("POST", "/generate_stream", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    return f"Error: {event['error']}"
                if times is not None:
                    times.append(time.monotonic())
                text += event["token"]["text"]
                if event["generated_text"] is not None:
                    return text
    return f"Error: ended after {text!r}"


async def streams(server: Server, prompts: list[str], new_tokens: int) -> list[str]:
    async with httpx.AsyncClient(base_url=url(server), timeout=PATIENCE) as client:
        return await asyncio.gather(*(stream(client, prompt, new_tokens) for prompt in prompts))


def test_texts_are_those_of_one_server(one: Server, replicas: Server) -> None:
    """And both replicas have worked on them."""
    expected = [one.generate(prompt, max_new_tokens=24)["generated_text"] for prompt in PROMPTS]
    assert asyncio.run(streams(replicas, PROMPTS, 24)) == expected
    told = series(replicas.client.get("/metrics").text)
    worked = [value for name, value in told.items() if name.startswith("tgi_request_success{")]
    assert len(worked) == 2 and sum(worked) == len(PROMPTS) and min(worked) >= 2


def test_answers_are_those_of_one_server(one: Server, replicas: Server) -> None:
    """Status, body and headers, of pages and of errors, too."""
    asked = [
        ("GET", "/info", None),
        ("GET", "/v1/models", None),
        ("GET", "/nowhere?a=%2F", None),
        ("PUT", "/generate", {}),
        ("POST", "/generate", {"inputs": ""}),
        ("POST", "/generate", {"inputs": "x", "parameters": {"max_new_tokens": 5000}}),
        ("POST", "/tokenize", {"inputs": "Once upon"}),
        ("POST", "/generate", {"inputs": "x" * (3 << 20)}),
        ("POST", "/v1/completions", {"model": "m", "prompt": "Once", "max_tokens": 0}),
    ]
    ours = {"date", "x-request-id", "content-length"}
    for method, path, body in asked:
        expected, got = (each.client.request(method, path, json=body) for each in (one, replicas))
        assert got.status_code == expected.status_code, path
        assert {*got.headers} - ours == {*expected.headers} - ours, path
        if "created" not in expected.text:
            assert got.text == expected.text, path


def test_tokens_come_one_by_one(replicas: Server) -> None:
    async def ask() -> list[float]:
        times: list[float] = []
        async with httpx.AsyncClient(base_url=url(replicas), timeout=PATIENCE) as client:
            await stream(client, PROMPTS[0], 40, times)
        return times

    times = asyncio.run(ask())
    whole = times[-1] - times[0]
    assert len(times) > 20 and max(b - a for a, b in itertools.pairwise(times)) < whole / 2


def test_a_client_that_goes_away_ends_its_generation(replicas: Server) -> None:
    body = {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 900}}
    with replicas.client.stream("POST", "/generate_stream", json=body) as answer:
        lines = answer.iter_lines()  # kept: without it the answer would be closed
        next(lines)
        assert sum(under_way(replicas)) == 1
    began = time.monotonic()
    until(lambda: sum(under_way(replicas)) == 0, 20)
    told = series(replicas.client.get("/metrics").text)
    dropped = [value for name, value in told.items() if name.startswith("tgi_request_failure") and "dropped" in name]
    assert dropped == [1], f"it ran for {time.monotonic() - began} s"


def test_shared_beginnings_are_found_as_often_as_by_one_server(one: Server, replicas: Server) -> None:
    _, expected, looked = asyncio.run(hits(url(one), 6, 3, 3))
    _, found, asked = asyncio.run(hits(url(replicas), 6, 3, 3))
    assert asked == looked
    assert expected >= 2 * 6 * 512
    assert found >= 0.9 * expected


def test_a_killed_replica_loses_its_own_requests_only(replicas: Server) -> None:
    whole = asyncio.run(streams(replicas, PROMPTS, 60))

    async def run() -> tuple[list[str], str]:
        async with httpx.AsyncClient(base_url=url(replicas), timeout=PATIENCE) as client:
            asked = [asyncio.create_task(stream(client, prompt, 60)) for prompt in PROMPTS]
            while min(await asyncio.to_thread(under_way, replicas)) < 2:
                await asyncio.sleep(0.05)
            actors(replicas)[0].kill()
            new = await stream(client, PROMPTS[0], 60)
            return await asyncio.gather(*asked), new

    texts, new = asyncio.run(run())
    lost = [text for text in texts if text.startswith("Error: ")]
    assert 2 <= len(lost) <= 6 and {"lost" in text for text in lost} == {True}
    assert [text for text in texts if text not in lost] == [
        w for w, t in zip(whole, texts, strict=True) if t not in lost
    ]
    assert new == whole[0]
    until(lambda: running(replicas) == 2)
    assert asyncio.run(streams(replicas, PROMPTS, 60)) == whole


def test_a_killed_shard_ends_its_replica_only(replicas: Server) -> None:
    until(lambda: len(replicas.named("tgi_server.shard.main")) == 2)
    before = replicas.named("tgi_server.shard.main")
    before[0].kill()
    assert replicas.client.get("/health").status_code == 200
    until(
        lambda: running(replicas) == 2 and before[0].pid not in {p.pid for p in replicas.named("tgi_server.shard.main")}
    )
    assert replicas.generate(PROMPTS[0], max_new_tokens=4)["generated_text"]


def test_told_to_end_it_finishes_and_leaves_nothing(replicas: Server) -> None:
    family = replicas.family()
    left = set(Path("/tmp").glob("tgi-replica-*"))

    async def run() -> list[str]:
        asked = asyncio.create_task(streams(replicas, PROMPTS[:4], 60))
        while sum(await asyncio.to_thread(under_way, replicas)) < 4:
            await asyncio.sleep(0.05)
        replicas.process.terminate()
        return await asked

    assert not [text for text in asyncio.run(run()) if text.startswith("Error: ")]
    assert replicas.process.wait(60) == 0, replicas.output
    _, alive = psutil.wait_procs(family, 10)
    assert not alive
    assert len(left) >= 2 and not any(path.exists() for path in left)


def test_replicas_come_and_go_with_the_load() -> None:
    options = ["max_replicas=2", "target_requests=2", "upscale_delay=1", "downscale_delay=2"]
    with Server("deployment=ray", *options, *COMMON, patience=PATIENCE) as server:

        async def load(clients: int, enough: int) -> list[str]:
            """Answers to so many clients until there are as many replicas."""
            texts: list[str] = []
            done = False

            async def work(client: httpx.AsyncClient, number: int) -> None:
                while not done:
                    texts.append(await stream(client, f"{number}. {PROMPTS[number]}", 24))

            async with httpx.AsyncClient(base_url=url(server), timeout=PATIENCE) as client:
                working = [asyncio.create_task(work(client, number)) for number in range(clients)]
                await asyncio.to_thread(until, lambda: running(server) == enough)
                done = True
                await asyncio.gather(*working)
            return texts

        assert running(server) == 1
        texts = asyncio.run(load(8, 2)) + asyncio.run(load(1, 1))
        assert texts and not [text for text in texts if text.startswith("Error: ")]
