"""Options that change what is computed, in a server that has many of them set."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.collector import Collector, attributes, collecting
from tests.integration.server import Server
from tests.watermarks import DEMO
from tgi_server.launcher.vocabulary import find
from tgi_server.shard.sampler import Watermark
from tgi_server.watermark import detect

PROMPTS = ["The capital of France is", "def fibonacci(n):\n    ", "Once upon a time " * 10]
WATERMARK = Watermark(gamma=0.25, delta=6.0)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture(scope="module")
def plain(collector: Collector) -> Iterator[Server]:
    """Plain torch in float32, with a watermark, candidates and traces for those who ask."""
    with Server(
        "model=smollm2", "dtype=float32", "disable_custom_kernels=true", "max_best_of=3",
        f"watermark_gamma={WATERMARK.gamma}", f"watermark_delta={WATERMARK.delta}",
        f"otlp_endpoint={collector.endpoint}",
    ) as server:  # fmt: skip
        yield server


def test_plain_torch_says_the_same(plain: Server, float32_server: Server) -> None:
    for prompt in PROMPTS:
        assert plain.generate(prompt, max_new_tokens=12) == float32_server.generate(prompt, max_new_tokens=12)
    for operation in ("attention", "add_norm", "rotate_store", "gate", "linear", "head", "sample"):
        (line,) = [line for line in plain.output.splitlines() if f" {operation}: torch (" in line]
        assert "WARN" in line and "not native: disable_custom_kernels=true" in line
        assert f" {operation}: native" in float32_server.output


def test_a_watermark_can_be_detected(plain: Server) -> None:
    """In 40 tokens, by a text as it is answered."""
    asked: dict[str, Any] = {"do_sample": True, "seed": 1, "max_new_tokens": 40}
    tokenizer = find(DEMO)
    marked, free = (plain.generate(PROMPTS[0], watermark=watermark, **asked) for watermark in (True, False))
    assert detect(str(marked["generated_text"]), tokenizer, WATERMARK.gamma).z > 5
    assert abs(detect(str(free["generated_text"]), tokenizer, WATERMARK.gamma).z) < 3.5


def test_the_likeliest_candidate_is_the_answer(plain: Server) -> None:
    answer: Any = plain.generate(PROMPTS[0], best_of=3, do_sample=True, details=True, max_new_tokens=8)
    candidates = [answer["details"], *answer["details"]["best_of_sequences"]]
    means = [sum(token["logprob"] for token in one["tokens"]) / len(one["tokens"]) for one in candidates]
    assert len(means) == 3 and means[0] == max(means)
    assert len({one["seed"] for one in candidates}) == 3
    assert plain.client.get("/info").json()["max_best_of"] == 3


def test_traces_are_delivered_at_the_end(plain: Server, collector: Collector) -> None:
    plain.generate("last", max_new_tokens=7)
    assert plain.stop() == 0
    (span,) = collector.spans.values()  # of equal names the last
    assert span.name == "POST /generate" and attributes(span)["generated_tokens"] == 7


def test_all_problems_are_told_at_once() -> None:
    command = [sys.executable, "-m", "tgi_server", "--sharded", "true", "ngrok=true", "--validation-workers", "0"]
    done = subprocess.run([*command, "model_id=none/such"], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("Error: ")
    for words in (
        "validation_workers=0: ",
        "--validation-workers",
        "ngrok=true: needs ngrok_authtoken",
        "(command line)",
    ):
        assert words in line
