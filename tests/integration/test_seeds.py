"""A seed's text depends on its own request alone (decision D12), in float32 whatever else is different."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.server import Server

NEW_TOKENS = 24
PROMPT = "The old clockmaker looked up and"
REQUESTS: list[dict[str, Any]] = [
    {"do_sample": True, "seed": 1},
    {"temperature": 0.7, "top_p": 0.9, "seed": 2},
    {"top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 3},
    {"do_sample": True, "typical_p": 0.9, "watermark": True, "seed": 4},
    {"do_sample": True, "frequency_penalty": 0.4, "seed": 2**63 + 5},
    {"temperature": 1.3, "top_k": 5, "seed": 6},
]
COMPANY = [{"do_sample": True, "seed": 100 + n} if n % 2 else {} for n in range(16 - len(REQUESTS))]
SERVERS: dict[str, list[str]] = {
    "again": [],
    "guessing": ["speculate=4", "speculation=suffix"],
    "three shards": ["num_shard=3", "max_total_tokens=1500"],
    "three shards guessing": ["num_shard=3", "max_total_tokens=1500", "speculate=4"],
}


def text(server: Server, number: int) -> str:
    """Of one of the requests; each has a prompt of its own, in which something repeats."""
    parameters = {"max_new_tokens": NEW_TOKENS, **[*REQUESTS, *COMPANY][number]}
    body = {"inputs": f"{number} {PROMPT} {number} {PROMPT}", "parameters": parameters}
    answer: str = server.client.post("/generate", json=body).raise_for_status().json()["generated_text"]
    return answer


def together(server: Server, pause: float = 0.0) -> list[str]:
    """The texts of all 16 requests, which come one after the other with a pause between two of them."""

    def late(number: int) -> str:
        time.sleep(pause * number)
        return text(server, number)

    with ThreadPoolExecutor(16) as pool:
        return [*pool.map(late, range(len(REQUESTS) + len(COMPANY)))][: len(REQUESTS)]


@pytest.fixture(scope="module")
def alone(float32_server: Server) -> list[str]:
    texts = [text(float32_server, number) for number in range(len(REQUESTS))]
    assert len(set(texts)) == len(texts)
    return texts


@pytest.fixture(scope="module", params=SERVERS)
def other(request: pytest.FixtureRequest) -> Iterator[Server]:
    with ExitStack() as stack:
        yield stack.enter_context(Server("model=smollm2", "dtype=float32", *SERVERS[request.param]))


def test_in_company_and_when_others_come_and_go(float32_server: Server, alone: list[str]) -> None:
    assert together(float32_server) == alone
    assert together(float32_server, 0.05) == alone


def test_another_server_writes_the_same(other: Server, alone: list[str]) -> None:
    assert [text(other, number) for number in range(2)] == alone[:2]
    assert together(other, 0.02) == alone
