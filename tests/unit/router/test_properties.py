"""Whatever a client sends, the answer is a documented status and never a defect."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.router_app import Router, started

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NUMBER = st.none() | st.integers(-2, 20) | st.floats(-1, 3) | st.sampled_from([10.0, 2**64, 1e39, 1e-50, "1"])
TEXT = st.text(max_size=20)
FLAG = st.booleans() | st.none()


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the fields, each with a plausible value or anything at all."""
    return st.fixed_dictionaries({}, optional={name: strategy | JSON for name, strategy in fields.items()})


SCHEMA = st.recursive(
    st.sampled_from([
        {}, {"type": "string"}, {"type": "integer", "minimum": 0}, {"enum": [1, "a", None]}, {"type": "thing"},
        {"type": "string", "pattern": "[a-z]+"}, {"$ref": "#/$defs/x"}, True, False, "{}", None,
    ]),
    lambda inner: st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": NUMBER})
    | st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(TEXT, inner, max_size=2)})
    | st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=2)}),
    max_leaves=4,
)  # fmt: skip
FORMAT = st.none() | st.builds(
    lambda kind, rest: {"type": kind} | rest,
    st.sampled_from(["text", "json", "json_object", "json_schema", "regex", "other"]),
    objects(value=SCHEMA | TEXT, schema=SCHEMA, json_schema=objects(name=TEXT, schema=SCHEMA, strict=FLAG)),
)
TOOL = st.builds(
    lambda name, rest: {"type": "function", "function": {"name": name} | rest},
    st.sampled_from(["f", "g", "no name"]),
    objects(description=TEXT, parameters=SCHEMA, strict=FLAG),
)
PARAMETERS = objects(
    best_of=NUMBER, temperature=NUMBER, repetition_penalty=NUMBER, frequency_penalty=NUMBER, top_k=NUMBER, top_p=NUMBER,
    typical_p=NUMBER, do_sample=FLAG, max_new_tokens=NUMBER, return_full_text=FLAG, stop=st.lists(TEXT, max_size=3),
    truncate=NUMBER, watermark=FLAG, details=FLAG, decoder_input_details=FLAG, seed=NUMBER, top_n_tokens=NUMBER,
    grammar=FORMAT,
)  # fmt: skip
NATIVE = st.fixed_dictionaries({"inputs": TEXT}, optional={"parameters": PARAMETERS, "stream": st.booleans()})
SHARED: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": NUMBER, "temperature": NUMBER, "top_p": NUMBER, "top_k": NUMBER, "seed": NUMBER, "n": NUMBER,
    "stop": TEXT | st.lists(TEXT, max_size=3) | st.none(), "stream": FLAG, "frequency_penalty": NUMBER,
    "stream_options": objects(include_usage=FLAG, continuous_usage_stats=FLAG), "ignore_eos": FLAG,
    "logit_bias": st.dictionaries(st.sampled_from(["5", "339", "340", "-1", "x", "5.0"]), NUMBER, max_size=2),
    "presence_penalty": NUMBER, "min_p": NUMBER, "repetition_penalty": NUMBER, "response_format": FORMAT,
    "typical_p": NUMBER, "watermark": FLAG,
}  # fmt: skip
CALL = objects(id=TEXT, type=st.just("function"), function=objects(name=TEXT, arguments=TEXT | st.just("{}")))
PART = objects(type=st.sampled_from(["text", "refusal", "image_url"]), text=TEXT, refusal=TEXT)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "system", "developer", "assistant", "tool", "function", "critic"]),
        "content": TEXT | st.lists(PART, max_size=2),
    },
    optional={
        "tool_calls": st.lists(CALL, max_size=2), "tool_call_id": TEXT, "name": TEXT, "refusal": TEXT,
        "function_call": objects(name=TEXT, arguments=TEXT),
    },
)  # fmt: skip
CHOSEN = objects(type=st.sampled_from(["function", "allowed_tools"]), function=objects(name=TEXT), name=st.just("f"))
ALLOWED: dict[str, st.SearchStrategy[Any]] = {
    "mode": st.sampled_from(["auto", "required"]),
    "tools": st.lists(CHOSEN, max_size=2),
}
CHAT = st.builds(
    lambda messages, rest: {"messages": messages} | rest,
    st.lists(MESSAGE | JSON, max_size=3),
    objects(
        **SHARED,
        logprobs=FLAG,
        top_logprobs=NUMBER,
        max_completion_tokens=NUMBER,
        tools=st.lists(TOOL, max_size=2),
        tool_choice=st.sampled_from(["auto", "none", "required", "f"])
        | CHOSEN
        | objects(type=st.just("allowed_tools"), allowed_tools=objects(**ALLOWED), **ALLOWED),
        parallel_tool_calls=FLAG,
        add_generation_prompt=FLAG,
        continue_final_message=FLAG,
        chat_template_kwargs=st.dictionaries(st.sampled_from(["x", "tools", "eos_token"]), JSON, max_size=2),
    ),
)
COMPLETION = st.builds(
    lambda prompt, rest: {"prompt": prompt} | rest,
    TEXT | st.lists(st.integers(-1, 350), max_size=5) | st.lists(TEXT, max_size=2) | JSON,
    objects(**SHARED, logprobs=NUMBER, echo=FLAG, suffix=st.none(), best_of=NUMBER),
)
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking", "redacted_thinking", "image", ""])},
    optional={
        "text": TEXT, "id": TEXT, "name": TEXT, "input": st.just({"a": 1}), "tool_use_id": TEXT, "content": TEXT,
        "is_error": FLAG, "thinking": TEXT,
    },
)  # fmt: skip
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "critic"]), "content": TEXT | st.lists(BLOCK, max_size=3)}
)
CUSTOM_TOOL = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "g", "no name"])},
    optional={"input_schema": SCHEMA, "description": TEXT, "type": st.sampled_from(["custom", "bash"]), "strict": FLAG},
)
MESSAGES = st.builds(
    lambda messages, rest: {"messages": messages, "max_tokens": 9} | rest,
    st.lists(TURN | JSON, max_size=3),
    objects(
        max_tokens=NUMBER, temperature=NUMBER, top_p=NUMBER, top_k=NUMBER, stream=FLAG, mcp_servers=st.just([]),
        stop_sequences=st.lists(TEXT, max_size=2), system=TEXT | st.lists(BLOCK, max_size=2),
        tools=st.lists(CUSTOM_TOOL, max_size=2),
        tool_choice=objects(type=st.sampled_from(["auto", "any", "tool", "none"]), name=st.just("f")),
        output_config=objects(format=objects(type=st.just("json_schema"), schema=SCHEMA)),
        thinking=objects(type=st.sampled_from(["enabled", "disabled"]), budget_tokens=NUMBER),
    ),
)  # fmt: skip
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image"])},
    optional={"text": TEXT, "refusal": TEXT},
)
ITEM = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "web_search_call"])},
    optional={
        "role": st.sampled_from(["user", "assistant", "developer", "critic"]),
        "content": TEXT | st.lists(PART, max_size=2), "call_id": TEXT, "name": TEXT, "output": TEXT,
        "arguments": st.sampled_from(["{}", "", "{", "[]"]), "summary": st.lists(PART, max_size=1),
    },
)  # fmt: skip
FLAT_TOOL = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "web_search"]), "name": st.sampled_from(["f", "g", "no name"])},
    optional={"parameters": SCHEMA, "description": TEXT, "strict": FLAG},
)
RESPONSES = st.builds(
    lambda asked, rest: {"input": asked} | rest,
    TEXT | st.lists(ITEM | JSON, max_size=3),
    objects(
        instructions=TEXT, max_output_tokens=NUMBER, temperature=NUMBER, top_p=NUMBER, top_logprobs=NUMBER, stream=FLAG,
        tools=st.lists(FLAT_TOOL, max_size=2), parallel_tool_calls=FLAG, background=FLAG,
        tool_choice=st.sampled_from(["auto", "required", "f"]) | objects(type=st.just("function"), name=TEXT),
        text=objects(format=objects(type=st.sampled_from(["text", "json_object", "json_schema"]), schema=SCHEMA)),
        reasoning=objects(effort=st.sampled_from(["none", "low"])), metadata=st.just({"a": "b"}),
        include=st.just(["message.output_text.logprobs"]),
    ),
)  # fmt: skip
REQUESTS = (
    st.tuples(st.sampled_from(["/v1/messages", "/v1/messages/count_tokens"]), MESSAGES | JSON)
    | st.tuples(st.just("/v1/responses"), RESPONSES | JSON)
    | st.tuples(st.sampled_from(["/generate", "/generate_stream", "/", "/invocations", "/tokenize"]), NATIVE | JSON)
    | st.tuples(st.just("/v1/chat/completions"), CHAT | JSON)
    | st.tuples(st.just("/v1/completions"), COMPLETION | JSON)
)


class Served:
    """A router that a synchronous test can ask."""

    def __init__(self, runner: asyncio.Runner, router: Router) -> None:
        self._runner = runner
        self._client = router.app.test_client()
        self.router = router

    def post(self, path: str, body: Any) -> tuple[int, str]:
        async def ask() -> tuple[int, str]:
            response = await self._client.post(
                path, data=json.dumps(body), headers={"content-type": "application/json"}
            )
            return response.status_code, await response.get_data(as_text=True)

        return self._runner.run(ask())


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with asyncio.Runner() as runner:
        opened = started(max_input_length=300, max_total_tokens=340)
        yield Served(runner, runner.run(opened.__aenter__()))
        runner.run(opened.__aexit__(None, None, None))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request_=REQUESTS)
def test_no_request_is_answered_with_a_defect(served: Served, request_: tuple[str, Any]) -> None:
    path, body = request_
    status, text = served.post(path, body)
    assert status in {200, 400, 422}, text
    assert (status == 422) <= ("Template error: no critics here" in text or not path.startswith("/v1")), text
    assert status != 422 or not path.startswith("/v1/messages")
    if status == 200 and "data: " in text[:6]:
        assert "internal" not in text
    assert served.router.engine.running == served.router.engine.waiting == 0
