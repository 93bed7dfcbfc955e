"""Limits written as flags, variables, a deployment file and overrides, as a running server keeps and tells them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.server import Server

DEPLOYMENT = """\
# @package _global_
defaults: [override /model: smollm2, override /batching: latency]
max_input_length: 40
max_batch_total_tokens: 4800
waiting_served_ratio: 0.5
max_best_of: 7
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """/info, and what some requests that go beyond a limit get."""
    directory = tmp_path_factory.mktemp("site")
    (directory / "deployment").mkdir()
    (directory / "deployment/mine.yaml").write_text(DEPLOYMENT)
    environ = {"MAX_TOTAL_TOKENS": "64", "MAX_STOP_SEQUENCES": "2", "MAX_BEST_OF": "6", "VALIDATION_WORKERS": "3"}
    with Server(
        "--config-dir", str(directory), "deployment=mine", "--max-concurrent-requests", "9", "--max-best-of=3",
        "max_waiting_tokens=4", "max_batch_size=2", "--max-top-n-tokens", "1",
        env=environ | {"MAX_WAITING_TOKENS": "8"},
    ) as server:  # fmt: skip

        def refused(inputs: str = "a", **parameters: Any) -> str:
            got = server.client.post("/generate", json={"inputs": inputs, "parameters": parameters})
            assert got.status_code == 422, got.text
            return str(got.json()["error"])

        yield {
            "info": server.client.get("/info").json(),
            "log": server.output,
            "long": refused("word " * 60, max_new_tokens=2),
            "total": refused(max_new_tokens=64),
            "stop": refused(stop=["a", "b", "c"]),
            "best": refused(best_of=4, do_sample=True),
            "top": refused(top_n_tokens=2),
        }


def test_each_reaches_the_server(answer: Any) -> None:
    expected = {
        "max_concurrent_requests": 9, "max_best_of": 3, "max_stop_sequences": 2, "max_input_length": 40,
        "max_total_tokens": 64, "waiting_served_ratio": 0.5, "max_batch_total_tokens": 4800, "max_waiting_tokens": 4,
        "max_batch_size": 2, "validation_workers": 3,
    }  # fmt: skip
    assert answer["info"].items() >= expected.items()


@pytest.mark.parametrize(
    ("case", "limit"), [("long", "40"), ("total", "64"), ("stop", "2"), ("best", "3"), ("top", "1")]
)
def test_each_is_kept(answer: Any, case: str, limit: str) -> None:
    assert limit in answer[case]


def test_the_log_tells_where_each_was_written(answer: Any) -> None:
    for words in (
        "max_total_tokens=64 (environment variable MAX_TOTAL_TOKENS)", "max_best_of=3 (--max-best-of)",
        "max_waiting_tokens=4 (command line)", "max_input_length=40 (deployment file",
    ):  # fmt: skip
        assert words in answer["log"]
