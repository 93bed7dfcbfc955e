"""Thoughts before guided answers, of a real model that knows nothing of either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest

from tests.integration.server import Server

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content.split('</think>')[-1] }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n<think>\n{% if enable_thinking is false %}\n</think>\n\n{% endif %}"
)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 0, "maximum": 9_999_999}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Which city in Switzerland is the largest?"}]}
FORMAT: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}}
TOOL = {"type": "function", "function": {"name": "tell", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("template") / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": TEMPLATE}))
    with Server("model=smollm2", f"tokenizer_config_path={path}") as server:
        yield server


def ask(server: Server, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one choice of a chat, and the token counts."""
    answer = server.client.post("/v1/chat/completions", json=CHAT | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0], answer.json()["usage"]


def test_a_schema_is_followed_after_thoughts(thinking: Server) -> None:
    """Which this model would go on with for ever."""

    def one(seed: int) -> str:
        choice, usage = ask(thinking, seed=seed, max_tokens=50 + 10 * seed, **FORMAT)
        message = choice["message"]
        jsonschema.validate(json.loads(message["content"]), SCHEMA)
        assert message["reasoning_content"] and choice["finish_reason"] == "stop"
        assert 20 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]
        return str(message["reasoning"])

    with ThreadPoolExecutor(5) as pool:
        assert len(set(pool.map(one, range(5)))) == 5


def test_a_call_is_made_after_thoughts(thinking: Server) -> None:
    fields = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "stop": ["{"]}
    choice, _ = ask(thinking, temperature=0, max_tokens=90, **fields)
    (call,) = choice["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    assert choice["message"]["reasoning_content"] and not choice["message"]["content"]
    assert choice["finish_reason"] == "tool_calls"


def test_no_thoughts_where_the_prompt_has_none(thinking: Server) -> None:
    for fields in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}):
        choice, usage = ask(thinking, temperature=0, max_tokens=60, **FORMAT, **fields)
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
        assert "reasoning_content" not in choice["message"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 0


def test_the_openai_client_streams_thoughts_and_content(thinking: Server) -> None:
    body: dict[str, Any] = CHAT | FORMAT | {"temperature": 1, "seed": 4, "max_tokens": 50}
    whole = ask(thinking, **body)[0]["message"]
    with openai.OpenAI(base_url=f"{thinking.client.base_url}/v1", api_key="none") as client:
        deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(model="m", stream=True, **body)]
    thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    content = "".join(delta.content or "" for delta in deltas)
    assert (thoughts, content) == (whole["reasoning_content"], whole["content"])
