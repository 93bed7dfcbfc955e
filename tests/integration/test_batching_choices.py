"""Chunked prefill and prefix caching together change no token: greedy text against the stored reference in float32."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration import reference
from tests.integration.server import Server

PROMPTS = [*reference.PROMPTS[:3], *reference.PROMPTS[17:21]]
"""Short ones, chats that begin alike, and texts of 220 and 880 tokens of which one begins with the other."""


@pytest.fixture(scope="module")
def choices() -> Iterator[Server]:
    with Server("model=smollm2", "dtype=float32", "prefill_chunk_tokens=64") as server:
        yield server


def ids(server: Server, prompt: str) -> list[int]:
    body = server.client.post(
        "/generate", json={"inputs": prompt, "parameters": {"max_new_tokens": reference.NEW_TOKENS, "details": True}}
    ).json()
    return [token["id"] for token in body["details"]["tokens"]]


def counted(server: Server, name: str) -> int:
    lines = server.client.get("/metrics").text.splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.split()[0] == name)


def test_greedy_text_is_the_reference_with_and_without_hits(choices: Server) -> None:
    cached = 0
    for turn in range(2):
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            answers = list(pool.map(lambda prompt: ids(choices, prompt), PROMPTS))
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            assert answer == reference.greedy()[prompt], (turn, prompt)
        before, cached = cached, counted(choices, "tgi_prefix_cache_hit_tokens")
    full_blocks = sum((len(reference.tokenizer()(prompt)["input_ids"]) - 1) // 16 * 16 for prompt in PROMPTS)
    assert cached - before == full_blocks, "the second time everything but the last block of each is there"
    assert counted(choices, "tgi_prefix_cache_query_tokens") > cached


def test_choices_of_one_prompt_compute_it_once(choices: Server) -> None:
    """The prompt, and of each other choice what is behind its last whole block."""
    prompt = "A story that nobody has told yet. " + "Once upon a time there was a fox. " * 60

    def computed() -> int:
        return counted(choices, "tgi_prefix_cache_query_tokens") - counted(choices, "tgi_prefix_cache_hit_tokens")

    for turn in range(2):
        before = computed()
        body = {"prompt": prompt, "n": 16, "max_tokens": 4, "temperature": 0}
        answer = choices.client.post("/v1/completions", json=body).json()
        assert len({choice["text"] for choice in answer["choices"]}) == 1, "greedy ones in float32"
        usage = answer["usage"]
        length, whole = usage["prompt_tokens"], (usage["prompt_tokens"] - 1) // 16 * 16
        assert length > 500
        assert usage["prompt_tokens_details"]["cached_tokens"] == whole * turn
        assert computed() - before == 16 * (length - whole) + (0 if turn else whole)


def test_scores_of_a_cached_prompt_are_all_there(choices: Server) -> None:
    prompt = PROMPTS[-1]
    ids(choices, prompt)
    hits = counted(choices, "tgi_prefix_cache_hit_tokens")
    answer = choices.client.post(
        "/generate",
        json={"inputs": prompt, "parameters": {"max_new_tokens": 1, "details": True, "decoder_input_details": True}},
    ).json()
    prefill = answer["details"]["prefill"]
    assert len(prefill) == len(reference.tokenizer()(prompt)["input_ids"])
    assert all(token["logprob"] is not None for token in prefill[1:])
    assert counted(choices, "tgi_prefix_cache_hit_tokens") == hits
