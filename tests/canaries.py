"""Requests whose every text is a canary: none of it may be found in a log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from msgspec import NODEFAULT, inspect

from tgi_server.router.anthropic.requests import ConversationBody, MessagesBody
from tgi_server.router.http.wire import Body
from tgi_server.router.native.requests import GenerateBody
from tgi_server.router.openai.requests import ChatBody, CompletionBody
from tgi_server.router.openai.responses.requests import ResponsesBody

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
        _post("/v1/chat/completions", None, messages=[{"role": "critic", "content": CANARY}], max_tokens=2),
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


BODIES: dict[str, type[Body]] = {
    "/generate": GenerateBody, "/generate_stream": GenerateBody, "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody, "/v1/responses": ResponsesBody, "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": ConversationBody,
}  # fmt: skip
_DEEPEST = 5
"""How far into structs that hold themselves."""


def everywhere() -> Iterator[Request]:
    """For each field of each body, at any depth, that takes a text: a request with one there, of the right shape."""
    for path, kind in BODIES.items():
        for body in _with_text(inspect.type_info(kind), 0):
            yield _post(path, None, **body)


def _with_text(kind: inspect.Type, depth: int) -> Iterator[Any]:
    """Values of that type with a canary in one place each."""
    match kind:
        case inspect.StrType():
            yield CANARY
        case inspect.AnyType():
            yield from (CANARY, {CANARY: CANARY})
        case inspect.Metadata():
            yield from _with_text(kind.type, depth)
        case inspect.UnionType():
            for each in kind.types:
                yield from _with_text(each, depth)
        case inspect.ListType():
            yield from ([value] for value in _with_text(kind.item_type, depth))
        case inspect.DictType():
            yield {CANARY: _least(kind.value_type)}
            yield from ({"x": value} for value in _with_text(kind.value_type, depth))
        case inspect.StructType() if depth < _DEEPEST:
            for field in kind.fields:
                for value in _with_text(field.type, depth + 1):
                    yield {**_least(kind), field.encode_name: value}


def _least(kind: inspect.Type) -> Any:
    """A value of that type, as small as it may be."""
    match kind:
        case inspect.Metadata():
            return _least(kind.type)
        case inspect.UnionType():
            return _least(kind.types[0])
        case inspect.StructType():
            tag = {} if kind.tag_field is None else {kind.tag_field: kind.tag}
            needed = [field for field in kind.fields if field.required and field.default is NODEFAULT]
            return tag | {field.encode_name: _least(field.type) for field in needed}
        case inspect.ListType():
            return [_least(kind.item_type)]
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.IntType():
            return 2
        case inspect.FloatType():
            return 1.0
        case inspect.BoolType():
            return True
        case inspect.StrType():
            return CANARY
    return None
