"""Requests whose every text is a canary: none of it may be found in a log."""

from __future__ import annotations

import json
from typing import Any

CANARY = "canary0yellow"
"""Not a word of any tokenizer, not valid as anything."""

SAID = [{"role": "user", "content": CANARY}]
SCHEMA = {"type": "object", "properties": {CANARY: {"type": "string", "pattern": f"({CANARY}"}}}
TOOL = {"type": "function", "function": {"name": CANARY, "description": CANARY, "parameters": SCHEMA}}
KEY = f"sk-{CANARY}"

Request = tuple[str, str, bytes, int | None]
"""Method, path, body, and the status of the answer where all servers agree."""


def _post(path: str, status: int | None, **body: Any) -> Request:
    return "POST", path, json.dumps(body).encode(), status


def _function(**fields: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": CANARY, **fields}}]


def requests() -> list[Request]:
    """Good ones, wrong ones, broken ones, over every API."""
    few = {"max_new_tokens": 2}
    return [
        _post("/generate", 200, inputs=CANARY, parameters={**few, "stop": [CANARY]}),
        _post("/generate_stream", 200, inputs=CANARY, parameters=few),
        _post("/", 200, inputs=CANARY, parameters=few),
        _post("/invocations", 200, inputs=CANARY, parameters=few),
        _post("/tokenize", 200, inputs=CANARY),
        _post("/generate", 422, inputs="", parameters={"stop": [CANARY]}),
        _post("/generate", 422, inputs=CANARY, parameters={"grammar": {"type": "regex", "value": f"({CANARY}"}}),
        _post("/generate", 422, inputs=CANARY, parameters={"grammar": {"type": "json", "value": SCHEMA}}),
        _post("/generate", 422, inputs=CANARY, parameters={"grammar": {"type": CANARY, "value": CANARY}}),
        _post("/generate", 422, inputs=CANARY, parameters={"max_new_tokens": CANARY}),
        _post("/generate_stream", 200, inputs="", parameters={"stop": [CANARY]}),
        _post("/v1/completions", 200, prompt=CANARY, max_tokens=2, stop=CANARY, user=CANARY),
        _post("/v1/completions", 400, prompt=CANARY, logit_bias={CANARY: 1}),
        _post("/v1/completions", 400, prompt=CANARY, suffix=CANARY),
        _post("/v1/chat/completions", 200, messages=SAID, max_tokens=2, metadata={"a": CANARY}),
        _post("/v1/chat/completions", 200, messages=SAID, max_tokens=2, stream=True, stop=[CANARY]),
        _post("/v1/chat/completions", None, messages=[{"role": "critic", "content": CANARY}]),
        _post("/v1/chat/completions", 400, messages=[{"role": "user", "content": [{"type": CANARY}]}]),
        _post("/v1/chat/completions", 400, messages=SAID, tools=_function(strict=True, parameters=SCHEMA)),
        _post("/v1/chat/completions", 400, messages=SAID, tools=_function(parameters={}), tool_choice=f"{CANARY}x"),
        _post("/v1/chat/completions", 400, messages=SAID, tools=[{"type": CANARY, "function": {"name": "f"}}]),
        _post("/v1/chat/completions", 400, messages=SAID, response_format={"type": "json_schema", "value": SCHEMA}),
        _post("/v1/chat/completions", 400, messages=SAID, response_format={"type": "json_schema", "value": CANARY}),
        _post("/v1/responses", 200, input=CANARY, max_output_tokens=2, instructions=CANARY),
        _post("/v1/responses", 400, input=[{"type": CANARY}]),
        _post("/v1/responses", 400, input=CANARY, tools=[{"type": CANARY}]),
        _post("/v1/messages", 200, messages=SAID, max_tokens=2, system=CANARY, stop_sequences=[CANARY]),
        _post("/v1/messages", 400, messages=SAID, max_tokens=2, tools=[{"name": "f", "type": CANARY}]),
        _post("/v1/messages", 400, messages=[{"role": CANARY, "content": CANARY}], max_tokens=2),
        _post("/v1/messages/count_tokens", 200, messages=SAID),
        ("POST", "/generate", f'{{"inputs": {CANARY}'.encode(), 400),
        ("POST", "/v1/chat/completions", f'["{CANARY}"]'.encode(), 400),
        ("POST", f"/{CANARY}", b"", 404),
        ("GET", f"/v1/models/{CANARY}", b"", 404),
        ("GET", "/v1/models", b"", 200),
        ("GET", f"/generate?{CANARY}", b"", 405),
    ]
