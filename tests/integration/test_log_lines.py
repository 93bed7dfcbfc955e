"""All that a server writes: lines of JSON, one for each request, and nothing of what anybody keeps secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.canaries import CANARY, KEY, requests
from tests.integration.server import Server


@pytest.fixture(scope="module")
def output() -> Iterator[str]:
    secrets = {"HF_TOKEN": f"hf_{CANARY}", "HTTPS_PROXY": f"http://user:{CANARY}@127.0.0.1:9"}
    options = ["json_output=true", f"api_key={KEY}", f"otlp_endpoint=http://user:{CANARY}@127.0.0.1:9", "--env"]
    with Server("model=smollm2", "dtype=float32", "max_concurrent_requests=16", *options, env=secrets) as server:
        for method, path, data, _ in requests():
            headers = {"x-api-key": KEY, "content-type": "application/json", "x-request-id": "known"}
            server.client.request(method, path, content=data, headers=headers)
        server.client.post("/generate", headers={"authorization": f"Bearer {CANARY}"})
        with server.client.stream("POST", "/generate", content=b"{", headers={"x-api-key": KEY}):
            pass
        assert server.stop() == 0
        yield server.output


def test_every_line_is_json(output: str) -> None:
    lines = [json.loads(line) for line in output.splitlines()]
    assert {line["target"].partition(":")[0] for line in lines} == {
        "text_generation_launcher", "text_generation_router"
    }  # fmt: skip
    assert any(line.get("span") == {"rank": 0, "name": "shard-manager"} for line in lines)
    assert all({"timestamp", "level", "target"} <= line.keys() for line in lines)


def test_every_request_has_one_line(output: str) -> None:
    lines = [json.loads(line) for line in output.splitlines()]
    spans: list[dict[str, Any]] = [line["span"] for line in lines if "request_id" in line.get("span", {})]
    assert len(spans) == len(requests()) + 2
    assert len([span for span in spans if span["request_id"] == "known"]) == len(requests())
    assert {span["status"] for span in spans} >= {200, 400, 401, 404, 405, 415, 422}


def test_nothing_is_told_that_is_not_the_logs_business(output: str) -> None:
    assert CANARY not in output and "Traceback" not in output
