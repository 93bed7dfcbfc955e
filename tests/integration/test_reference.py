"""The server's greedy text against transformers in float32."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tests.integration import reference
from tests.integration.server import Server


def ids(body: dict[str, Any]) -> list[int]:
    return [token["id"] for token in body["details"]["tokens"]]


def ask(server: Server, prompt: str) -> Any:
    return server.generate(prompt, max_new_tokens=reference.NEW_TOKENS, details=True)


def test_the_stored_reference_is_what_transformers_generates() -> None:
    """`generate` itself for one; for all, that each stored token has the best score after those before it."""
    assert set(reference.greedy()) == set(reference.PROMPTS)
    for prompt in reference.PROMPTS[:1]:
        assert reference.generate(prompt) == reference.greedy()[prompt]
    for prompt, new in reference.greedy().items():
        known = reference.tokenizer()(prompt)["input_ids"]
        with torch.no_grad():
            best = reference.model()(torch.tensor([known + new[:-1]]), logits_to_keep=len(new)).logits[0].argmax(-1)
        assert best.tolist() == new, prompt


@pytest.fixture
def company(float32_server: Server) -> Iterator[None]:
    """Sixteen other requests at any time, of different lengths, arriving and leaving."""
    stop = threading.Event()

    def keep_asking(worker: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            prompt = f"Worker {worker} asks for the {turn}th time: " + "so " * (worker * turn % 50)
            float32_server.generate(prompt, max_new_tokens=1 + (worker * 7 + turn * 3) % 24, do_sample=worker % 2 == 0)

    with ThreadPoolExecutor(16) as pool:
        workers = [pool.submit(keep_asking, worker) for worker in range(16)]
        yield
        stop.set()
    for worker in workers:
        worker.result()


@pytest.mark.parametrize("prompt", reference.PROMPTS, ids=range(len(reference.PROMPTS)))
def test_alone(float32_server: Server, prompt: str) -> None:
    answer = ask(float32_server, prompt)
    assert ids(answer) == reference.greedy()[prompt]
    text = reference.tokenizer().decode(reference.greedy()[prompt], skip_special_tokens=True)
    assert answer["generated_text"] == text.rstrip("\ufffd")  # without the bytes of an unfinished character


@pytest.mark.usefixtures("company")
def test_in_company(float32_server: Server) -> None:
    with ThreadPoolExecutor(len(reference.PROMPTS)) as pool:
        answers = list(pool.map(lambda prompt: ids(ask(float32_server, prompt)), reference.PROMPTS))
    for prompt, answer in zip(reference.PROMPTS, answers, strict=True):
        assert answer == reference.greedy()[prompt], prompt


def test_log_probabilities(float32_server: Server) -> None:
    prompt = reference.PROMPTS[0]
    body: Any = float32_server.generate(
        prompt, max_new_tokens=8, details=True, decoder_input_details=True, top_n_tokens=2
    )
    details = body["details"]
    prefill = [token["id"] for token in details["prefill"]]
    with torch.no_grad():
        logits = reference.model()(torch.tensor([prefill + ids(body)])).logits[0].log_softmax(-1)
    expected = logits[range(len(prefill) - 1), prefill[1:]].tolist()
    assert details["prefill"][0]["logprob"] is None
    assert [token["logprob"] for token in details["prefill"][1:]] == pytest.approx(expected, abs=1e-3)
    rows = logits[len(prefill) - 1 : -1]
    assert [t["logprob"] for t in details["tokens"]] == pytest.approx(rows.amax(-1).tolist(), abs=1e-3)
    assert [[t["id"] for t in top] for top in details["top_tokens"]] == rows.topk(2).indices.tolist()
