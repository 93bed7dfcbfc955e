"""Whether the OpenAPI document allows the requests that can be read, and no others."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.documented import DOCUMENT, strict, validator
from tests.unit.router import test_properties as plausible
from tgi_server.router.anthropic.requests import ConversationBody, MessagesBody
from tgi_server.router.http import wire
from tgi_server.router.native.requests import GenerateBody
from tgi_server.router.openai.requests import ChatBody, CompletionBody
from tgi_server.router.openai.responses.requests import ResponsesBody

BODIES: dict[str, Any] = {
    "GenerateBody": GenerateBody,
    "ChatBody": ChatBody,
    "CompletionBody": CompletionBody,
    "MessagesBody": MessagesBody,
    "ConversationBody": ConversationBody,
    "ResponsesBody": ResponsesBody,
}
HELLO = [{"role": "user", "content": "hello"}]
NAME = st.sampled_from(["weather", "a b", "", None])
KIND = st.sampled_from(["function", "tool", None])


def one_field(base: dict[str, Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A body that differs from a good one in one field, so that all hangs on this one."""
    return st.sampled_from(sorted(fields)).flatmap(
        lambda name: (fields[name] | plausible.JSON).map(lambda value: base | {name: value})
    )


FORMAT = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json", "json_schema", "regex", "xml"])},
    optional={
        "value": st.just({"type": "object"}) | st.just("a+"),
        "schema": st.just({"type": "object"}),
        "json_schema": plausible.objects(schema=st.just({}), name=NAME, strict=plausible.FLAG, description=NAME),
    },
)
FUNCTION: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"name": NAME}, optional={"description": NAME, "parameters": st.just({}), "strict": plausible.FLAG}
)
TOOLS = st.fixed_dictionaries({"function": FUNCTION}, optional={"type": KIND})
CALLED: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": NAME}, optional={"arguments": st.sampled_from(["{}", {}, None])})},
    optional={"id": NAME, "type": KIND},
)
PART = st.fixed_dictionaries(
    {"text": NAME}, optional={"type": st.sampled_from(["text", "refusal", "image_url", None]), "refusal": NAME}
)
MESSAGE = st.fixed_dictionaries({"role": st.just("user")}, optional={
    "content": NAME | st.lists(PART, max_size=2), "name": NAME, "tool_call_id": NAME,
    "tool_calls": st.lists(CALLED, max_size=2), "function_call": plausible.objects(name=NAME, arguments=NAME),
    "refusal": NAME,
})  # fmt: skip
OPTIONS: dict[str, st.SearchStrategy[Any]] = plausible.SHARED | {
    "response_format": FORMAT, "logit_bias": st.sampled_from([{"5": 1.5}, {"5": "1"}]), "min_tokens": plausible.NUMBER,
    "best_of": plausible.NUMBER, "logprobs": plausible.NUMBER | plausible.FLAG, "suffix": NAME, "echo": plausible.FLAG,
    "presence_penalty": plausible.NUMBER, "min_p": plausible.NUMBER, "model": NAME,
    "typical_p": plausible.NUMBER, "watermark": plausible.FLAG,
}  # fmt: skip
NESTED = one_field({"messages": HELLO}, messages=st.lists(MESSAGE, max_size=2), tools=st.lists(TOOLS, max_size=2))
CHAT = NESTED | one_field(
    {"messages": HELLO}, **OPTIONS, functions=st.just([]), function_call=NAME,
    tool_choice=NAME | TOOLS | plausible.CHOSEN | st.fixed_dictionaries({}, optional=plausible.ALLOWED)
    | plausible.objects(type=KIND, allowed_tools=st.fixed_dictionaries({}, optional=plausible.ALLOWED)),
    parallel_tool_calls=plausible.FLAG, top_logprobs=plausible.NUMBER, add_generation_prompt=plausible.FLAG,
    continue_final_message=plausible.FLAG, chat_template_kwargs=st.just({"x": 1}),
)  # fmt: skip
PROMPT = st.lists(st.integers(-1, 9) | NAME | st.lists(st.integers(-1, 9) | st.just(1.0), max_size=2), max_size=2)
COMPLETION = one_field({"prompt": "x"}, **OPTIONS, prompt=PROMPT)
PARAMETERS = one_field(
    {}, grammar=FORMAT, max_new_tokens=plausible.NUMBER, best_of=plausible.NUMBER, top_k=plausible.NUMBER,
    temperature=plausible.NUMBER, seed=plausible.NUMBER, details=plausible.FLAG, return_full_text=plausible.FLAG,
    stop=st.lists(NAME, max_size=2),
)  # fmt: skip
BLOCK = one_field(
    {"type": "text"}, content=NAME | st.lists(st.just({"type": "text"})), input=NAME, is_error=plausible.FLAG
)
CUSTOM = one_field({"name": "f"}, input_schema=NAME, type=KIND, strict=plausible.FLAG)
MESSAGES = one_field(
    {"messages": HELLO, "max_tokens": 9},
    messages=st.lists(
        st.fixed_dictionaries({"role": NAME | st.just("user"), "content": NAME | st.lists(BLOCK)}), max_size=2
    ),
    system=NAME | st.lists(BLOCK, max_size=1), max_tokens=plausible.NUMBER, top_k=plausible.NUMBER,
    tools=st.lists(CUSTOM, max_size=1),
    tool_choice=st.fixed_dictionaries({"type": st.sampled_from(["auto", "all", None])}), stop_sequences=st.lists(NAME),
    thinking=one_field({"type": "enabled"}, display=NAME | st.just("omitted"), type=NAME),
    output_config=one_field({}, effort=NAME, format=st.fixed_dictionaries({"schema": st.just({}) | NAME})),
)  # fmt: skip
INPUT = one_field(
    {"type": "message"}, content=NAME | st.lists(BLOCK, max_size=1), role=NAME, arguments=NAME, summary=st.lists(BLOCK),
)  # fmt: skip
RESPONSES = one_field(
    {"input": "x"},
    input=NAME | st.lists(INPUT, max_size=2), max_output_tokens=plausible.NUMBER, metadata=st.just({"a": 1}),
    include=st.lists(NAME), text=one_field({}, format=one_field({"type": "text"}, type=NAME, schema=NAME)),
    tools=st.lists(one_field({"type": "function"}, name=NAME, parameters=NAME, strict=plausible.FLAG), max_size=1),
    reasoning=one_field({}, effort=NAME), parallel_tool_calls=plausible.FLAG, tool_choice=NAME | TOOLS, prompt=NAME,
)  # fmt: skip
REQUESTS = (
    st.tuples(st.just("GenerateBody"), plausible.NATIVE | one_field({"inputs": "x"}, parameters=PARAMETERS))
    | st.tuples(st.just("ChatBody"), plausible.CHAT | CHAT)
    | st.tuples(st.just("CompletionBody"), plausible.COMPLETION | COMPLETION)
    | st.tuples(st.sampled_from(["MessagesBody", "ConversationBody"]), plausible.MESSAGES | MESSAGES)
    | st.tuples(st.just("ResponsesBody"), plausible.RESPONSES | RESPONSES)
)
OPEN = strict(DOCUMENT["components"], closed=False)
VALIDATORS = {name: validator({"$ref": f"#/components/schemas/{name}"}, OPEN) for name in BODIES}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request_=REQUESTS)
def test_it_allows_what_can_be_read_and_nothing_else(request_: tuple[str, Any]) -> None:
    name, body = request_
    try:
        wire.parse(BODIES[name], json.dumps(body).encode(), "application/json")
        refused = ""
    except wire.BodyError as error:
        refused = str(error)
    assume("64 bits" not in refused)  # the one rule that is in words only
    assert VALIDATORS[name].is_valid(body) == (not refused), (body, refused)
