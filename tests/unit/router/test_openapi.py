"""The OpenAPI document against what is served: routes, requests, answers."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV30SpecValidator

from tests.documented import DOCUMENT, check
from tests.router_app import Router, says, started
from tests.unit.router import test_properties as plausible
from tgi_server import __version__
from tgi_server.config.schema import Resolved
from tgi_server.router.anthropic import requests as anthropic
from tgi_server.router.chat import messages
from tgi_server.router.document import document
from tgi_server.router.http import formats
from tgi_server.router.http.openapi.words import field_docs
from tgi_server.router.http.wire import Body
from tgi_server.router.native import requests as native
from tgi_server.router.openai import requests as openai
from tgi_server.router.openai.responses import requests as responses

SCHEMAS = DOCUMENT["components"]["schemas"]
FOR_PEOPLE = {"/ui", "/docs", "/docs/", "/docs/<name>", "/api-doc/openapi.json"}
STRUCTS = [
    kind
    for room in (messages, formats, native, openai, anthropic, responses)
    for _, kind in inspect.getmembers(room, inspect.isclass)
    if issubclass(kind, msgspec.Struct) and kind not in (msgspec.Struct, Body, openai.OpenAIBody)
]


def inside(node: Any) -> Iterator[dict[str, Any]]:
    """All objects of a document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from inside(child)


@pytest.mark.parametrize("chat_at_invocations", [False, True])
def test_it_is_a_valid_document(chat_at_invocations: bool) -> None:
    made = document(chat_at_invocations)
    assert not [(list(error.path), error.message) for error in OpenAPIV30SpecValidator(made).iter_errors()]
    assert all("items" in schema for schema in inside(made) if schema.get("type") == "array")  # which that overlooks
    body = made["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].endswith("ChatBody" if chat_at_invocations else "GenerateBody")


async def test_it_is_served() -> None:
    async with started() as router:
        response = await router.app.test_client().get("/api-doc/openapi.json")
        assert response.content_type == "application/json" and await response.get_json() == DOCUMENT
    assert DOCUMENT["openapi"] == "3.0.3" and DOCUMENT["info"]["title"] == "Text Generation Inference"
    assert DOCUMENT["info"]["license"]["name"] == "Apache 2.0" and DOCUMENT["info"]["version"] == __version__


async def test_every_route_is_in_it_and_no_other() -> None:
    async with started() as router:
        rules = [rule for rule in router.app.url_map.iter_rules() if rule.rule not in FOR_PEOPLE]
    served = {
        (rule.rule.replace("<path:name>", "{name}"), method)
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    told = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert served == told
    names = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


def test_every_route_is_in_the_written_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    table, *_ = text.partition("## Routes\n")[2].partition("\n## ")
    told = set(re.findall(r"`(?:\w+ )?(/[^`]*)`", table))
    assert told == {*DOCUMENT["paths"], "/docs", "/ui", "/api-doc/openapi.json"}


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_of_a_request_is_in_it(struct: type[msgspec.Struct]) -> None:
    schema = SCHEMAS[struct.__name__]
    tag = {struct.__struct_config__.tag_field} - {None}
    assert set(schema["properties"]) == set(struct.__struct_encode_fields__) | tag
    wanted = {field.encode_name for field in msgspec.structs.fields(struct) if field.required} | tag
    assert set(schema.get("required", [])) == wanted and schema["description"]


BODIES = [
    native.Parameters, native.GenerateBody, openai.ChatBody, openai.CompletionBody, anthropic.ConversationBody,
    anthropic.MessagesBody, responses.ResponsesBody,
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_every_field_of_a_body_is_explained(body: type[Body]) -> None:
    assert list(field_docs(body)) == list(SCHEMAS[body.__name__]["properties"])
    default = SCHEMAS["Parameters"]["properties"]["max_new_tokens"]["default"]
    assert default == native.Parameters().max_new_tokens == 100


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
HELLO = [{"role": "user", "content": "hello"}]
TEXT = "Paris is the capital."
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Bern"}}\n</tool_call>'
ALL: dict[str, Any] = {"details": True, "top_n_tokens": 2, "max_new_tokens": 3}
NATIVE, CHAT_PATH, COMPLETIONS = ("/generate", "/", "/invocations"), "/v1/chat/completions", "/v1/completions"
MESSAGES, TOOL_USE = "/v1/messages", {"name": "weather", "input_schema": {"type": "object"}}
RESPONSES, FLAT_TOOL = "/v1/responses", {"type": "function", "name": "weather", "parameters": {"type": "object"}}
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
ASKED: list[tuple[str, dict[str, Any]]] = [
    *((path, {"inputs": "x"}) for path in (*NATIVE, "/generate_stream", "/tokenize")),
    *((path, {"inputs": "x y", "parameters": ALL | {"decoder_input_details": True}}) for path in NATIVE),
    *((path, {"inputs": "x", "parameters": ALL | {"best_of": 2, "do_sample": True}}) for path in NATIVE),
    ("/generate_stream", {"inputs": "x", "parameters": ALL | {"do_sample": True}}),
    ("/generate_stream", {"inputs": "x", "parameters": {"stop": ["capital"]}}),
    *((path, {"inputs": "x", "stream": True, "parameters": ALL}) for path in NATIVE[1:]),
    *((CHAT_PATH, {"messages": HELLO} | more) for more in ({}, STREAMED)),
    *((CHAT_PATH, {"messages": HELLO, "logprobs": True, "top_logprobs": 2, "n": 2} | more) for more in ({}, STREAMED)),
    *((CHAT_PATH, {"messages": HELLO, "tools": [TOOL]} | more) for more in ({}, STREAMED)),
    *((COMPLETIONS, {"prompt": "x"} | more) for more in ({}, STREAMED)),
    *((COMPLETIONS, {"prompt": ["x", "y z"], "logprobs": 2, "echo": True} | more) for more in ({}, STREAMED)),
    (COMPLETIONS, {"prompt": [5, 6], "stream": True, "stream_options": {"continuous_usage_stats": True}}),
    *((RESPONSES, {"input": HELLO, "stream": flag} | more) for flag in (False, True)
      for more in ({}, {"tools": [FLAT_TOOL]}, {"top_logprobs": 2}, {"max_output_tokens": 2})),
    *((MESSAGES, {"messages": HELLO, "max_tokens": 99, "stream": flag} | more) for flag in (False, True)
      for more in ({}, {"tools": [TOOL_USE]}, {"stop_sequences": ["capital"]})),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), ASKED)
@pytest.mark.parametrize("text", [TEXT, CALL])
async def test_answers_are_as_documented(path: str, body: dict[str, Any], text: str) -> None:
    async with started(says(text)) as router:
        response = await router.app.test_client().post(path, json=body)
        assert response.status_code == 200
        answer = await check("POST", path, response)
    assert (answer[-1] if isinstance(answer, list) else answer).get("error") is None


FIGURES = ["/", "/health", "/ping", "/livez", "/readyz", "/startupz", "/info", "/metrics", "/v1/models"]


@pytest.mark.parametrize("path", FIGURES)
async def test_figures_are_as_documented(path: str) -> None:
    found = Resolved(model_sha="0123", pipeline_tag="text-generation", sha="4567", docker_label="sha-4567")
    for resolved in (found, None):
        async with started(resolved=resolved) as router:
            await check("GET", path, await router.app.test_client().get(path))
            router.engine.begin_drain()
            await check("GET", path, await router.app.test_client().get(path))


POSTS = [path for path, methods in DOCUMENT["paths"].items() if "post" in methods]


@pytest.mark.parametrize("path", POSTS)
async def test_examples_are_answered(path: str) -> None:
    example = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    async with started() as router:
        response = await router.app.test_client().post(path, json=example)
        assert response.status_code == 200
        await check("POST", path, response)


AS_JSON = {"content-type": "application/json"}
REFUSED: list[tuple[bytes, dict[str, str]]] = [
    (b"{", AS_JSON),
    (b"{}", AS_JSON),
    (b"{}", {}),
    (b" " * 2000, AS_JSON),
    (b'{"inputs": "", "prompt": "", "messages": [{"role": "critic", "content": ""}]}', AS_JSON),
    (b'{"input": [{"role": "critic", "content": ""}]}', AS_JSON),
]


@pytest.mark.parametrize("path", POSTS)
async def test_errors_are_as_documented(path: str) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    good = json.dumps(operation["requestBody"]["content"]["application/json"]["example"]).encode()
    met = set()
    async with started(payload_limit=1000, max_concurrent_requests=1) as router:

        async def send(data: bytes = good, headers: dict[str, str] = AS_JSON) -> None:
            response = await router.app.test_client().post(path, data=data, headers=headers)
            await check("POST", path, response)
            met.add(str(response.status_code))

        router.shards.model.failures[0] = "out of memory"
        await send()
        for data, headers in REFUSED:
            await send(data, headers)
        with router.engine.permit():
            await send()
        router.engine.begin_drain()
        await send()
    assert met | {"200", "408", "500"} == set(operation["responses"])


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_defects_are_as_documented(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with started() as router:
        monkeypatch.setattr(router.engine, "permit", lambda: 1 / 0)
        response = await router.app.test_client().post(path, json={"inputs": "x", "prompt": "x"})
        assert response.status_code == 500
        await check("POST", path, response)


@pytest.fixture(scope="module")
def runner() -> Iterator[tuple[asyncio.Runner, Router]]:
    with asyncio.Runner() as runner:
        opened = started(max_input_length=12, max_total_tokens=24)
        yield runner, runner.run(opened.__aenter__())
        runner.run(opened.__aexit__(None, None, None))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request_=plausible.REQUESTS)
def test_any_answer_is_as_documented(runner: tuple[asyncio.Runner, Router], request_: tuple[str, Any]) -> None:
    path, body = request_

    async def ask() -> None:
        client = runner[1].app.test_client()
        response = await client.post(path, data=json.dumps(body), headers={"content-type": "application/json"})
        await check("POST", path, response)

    runner[0].run(ask())
