"""Many requests at once."""

from __future__ import annotations

import asyncio
import re
import time

import httpx
import pytest

from tests.integration.server import Server, series


async def post(client: httpx.AsyncClient, prompt: str, tokens: int) -> tuple[float, httpx.Response]:
    answer = await client.post("/generate", json={"inputs": prompt, "parameters": {"max_new_tokens": tokens}})
    return time.monotonic(), answer


def connect(server: Server) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=100)
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=120, limits=limits)


async def test_sixty_four_at_once_in_batches_of_four_first_come_first_served() -> None:
    with Server("model=smollm2", "max_batch_size=4") as server:
        async with connect(server) as client:
            tasks = []
            for number in range(64):
                tasks.append(asyncio.create_task(post(client, f"Request number {number} says", 8)))
                await asyncio.sleep(0.01)
            largest = 0
            while not all(task.done() for task in tasks):
                metrics = (await client.get("/metrics")).text
                found = re.search(r"^tgi_batch_current_size (\d+)", metrics, re.M)
                largest = max(largest, int(found[1]) if found else 0)
                await asyncio.sleep(0.02)
            results = [task.result() for task in tasks]
            assert [r.status_code for _, r in results] == [200] * 64
            assert 1 < largest <= 4
            # all have the same length: whoever came four places earlier is done before
            finished = [when for when, _ in results]
            assert all(finished[i] < finished[i + 8] for i in range(56))


async def test_the_third_request_beside_two_is_refused() -> None:
    with Server("model=smollm2", "max_concurrent_requests=2") as server:
        async with connect(server) as client:
            running = [asyncio.create_task(post(client, "Count to a thousand: 1 2 3", 200)) for _ in range(2)]
            while "tgi_batch_current_size 2" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.02)
            _, refused = await post(client, "Me too", 1)
            assert refused.status_code == 429
            assert refused.json() == {"error": "Model is overloaded", "error_type": "overloaded"}
            stream = await client.post("/generate_stream", json={"inputs": "Me too"})
            assert stream.status_code == 200
            assert '"error_type":"overloaded"' in stream.text.replace(" ", "")
            assert [(await task)[1].status_code for task in running] == [200, 200]
            assert (await post(client, "Now me", 1))[1].status_code == 200
            told = series((await client.get("/metrics")).text)
            assert 0.1 < told["tgi_model_load_seconds"] < 90
            (shard,) = server.named("tgi_server.shard.main")
            assert told['tgi_shard_resident_memory_bytes{rank="0"}'] == pytest.approx(shard.memory_info().rss, rel=0.2)
            assert told["tgi_request_open_limit"] == 2 and told['tgi_cache_blocks{group="full"}'] > 0
            assert told['tgi_http_responses{route="/generate",status="429"}'] == 1


def test_chat_knows_the_capital_of_france(server: Server) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    body = {"model": "tgi", "messages": question, "max_tokens": 30, "temperature": 0}
    answer = server.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
