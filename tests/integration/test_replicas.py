"""Replicas on Ray Serve, on this machine: as one server for clients, whatever becomes of one of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest

from scripts.replicas import hits
from tests.integration.server import Server, series

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray Serve is not installed: pip install 'tgi-server[ray]'"),
]

COMMON = ["model=smollm2", "max_concurrent_requests=16", "max_input_length=700", "max_total_tokens=1024"]
PATIENCE = 240.0
"""Seconds for what takes ten on a machine that does nothing else."""
PROMPTS = [f"{number}: Tell me a story about the number {number}. " * 3 for number in range(8)]
"""Their answers are long."""
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


def found(server: Server, part: str) -> list[psutil.Process]:
    """Its processes with such an argument, or name of Ray's; some of Ray's end while they are looked at."""
    kept = []
    for process in server.family():
        with suppress(psutil.Error):
            if any(part in argument for argument in process.cmdline()):
                kept.append(process)
    return kept


async def stream(client: httpx.AsyncClient, prompt: str, new_tokens: int, times: list[float] | None = None) -> str:
    """The text of an answer, or its error after `Error: `."""
    text: str = ""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": new_tokens}}
    async with client.stream("POST", "/generate_stream", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    return f"Error: {event['error']}"
                if times is not None:
                    times.append(time.monotonic())
                text += str(event["token"]["text"])
                if event["generated_text"] is not None:
                    return text
    return f"Error: ended after {text!r}"


async def streams(
    server: Server, prompts: list[str], new_tokens: int, meanwhile: Callable[[], None] = lambda: None
) -> list[str]:
    """The answers; once each has begun `meanwhile` is called."""
    async with httpx.AsyncClient(base_url=url(server), timeout=PATIENCE) as client:
        begun: list[list[float]] = [[] for _ in prompts]
        asked = [
            asyncio.create_task(stream(client, prompt, new_tokens, times))
            for prompt, times in zip(prompts, begun, strict=True)
        ]
        while not all(begun):
            await asyncio.sleep(0.02)
            if failed := [task for task in asked if task.done() and task.result().startswith("Error: ")]:
                raise AssertionError(failed[0].result())
        meanwhile()
        return await asyncio.gather(*asked)


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
        assert got.headers.get_list("access-control-allow-origin") == ["*"], path
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


def test_one_that_hangs_hides_no_other(replicas: Server) -> None:
    hanging = found(replicas, "ray::ServeReplica")[0]
    hanging.suspend()
    try:
        assert replicas.client.get("/health").status_code == 200
        assert running(replicas) == 1
    finally:
        hanging.resume()
    until(lambda: running(replicas) == 2)


def test_a_killed_replica_loses_its_own_requests_only(replicas: Server) -> None:
    whole = asyncio.run(streams(replicas, PROMPTS, 60))
    new: list[object] = []

    def kill() -> None:
        found(replicas, "ray::ServeReplica")[0].kill()
        new.append(replicas.generate(PROMPTS[0], max_new_tokens=60)["generated_text"])

    texts = asyncio.run(streams(replicas, PROMPTS, 60, kill))
    lost = [text for text in texts if text.startswith("Error: ")]
    assert lost and {"lost" in text for text in lost} == {True}
    assert len(lost) < len(PROMPTS)
    assert {
        (text, expected) for text, expected in zip(texts, whole, strict=True) if text not in (expected, *lost)
    } == set()
    assert new == whole[:1]
    until(lambda: running(replicas) == 2)
    assert asyncio.run(streams(replicas, PROMPTS, 60)) == whole


def test_a_killed_shard_ends_its_replica_only(replicas: Server) -> None:
    def shards() -> set[int]:
        return {process.pid for process in found(replicas, "tgi_server.shard.main")}

    until(lambda: len(shards()) == 2)
    killed = min(shards())
    psutil.Process(killed).kill()
    assert replicas.client.get("/health").status_code == 200
    until(lambda: killed not in shards() and len(shards()) == running(replicas) == 2)
    assert len(asyncio.run(streams(replicas, PROMPTS, 4))) == len(PROMPTS)


def test_told_to_end_it_finishes_and_leaves_nothing(replicas: Server) -> None:
    family = replicas.family()
    left = {Path(each.cmdline()[-1]) for each in found(replicas, "/tgi-replica-")}
    texts = asyncio.run(streams(replicas, PROMPTS[:4], 60, replicas.process.terminate))
    assert not [text for text in texts if text.startswith("Error: ")]
    assert replicas.process.wait(PATIENCE) == 0, replicas.output
    _, alive = psutil.wait_procs(family, 10)
    assert not alive
    assert left and not any(path.exists() for path in left)


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
