"""The model spread over several processes."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from tests.integration.server import Server

PROMPTS = ["The capital of France is", "def fibonacci(n):\n    ", "日本の首都は", "Once upon a time " * 10]


@pytest.mark.parametrize(("num_shard", "prompts", "new_tokens"), [(2, 3, 12), (5, 1, 4)])
def test_same_text_as_one_shard(float32_server: Server, num_shard: int, prompts: int, new_tokens: int) -> None:
    def answers(server: Server) -> list[Any]:
        return [server.generate(prompt, max_new_tokens=new_tokens)["generated_text"] for prompt in PROMPTS[:prompts]]

    with Server("model=smollm2", "dtype=float32", f"num_shard={num_shard}", "max_total_tokens=auto") as server:
        assert len(server.named("tgi_server.shard.main")) == num_shard
        assert answers(server) == answers(float32_server)
        info = server.client.get("/info").json()
        assert (info["max_input_length"], info["max_total_tokens"]) == (4096, 8192), "auto: what the model reads"


def test_more_shards_than_heads_are_refused() -> None:
    start = time.monotonic()
    command = [sys.executable, "-m", "tgi_server", "model=smollm2", "num_shard=10", "port=0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.strip().count("\n") == 0, result.stderr
    for word in ("num_shard=10", "9 attention heads", "3 key/value heads", "these numbers work: 1 to 9"):
        assert word in result.stderr
    assert time.monotonic() - start < 15
