"""The OpenAPI document about the native API."""

from __future__ import annotations

from typing import Any

from tgi_server.router.http.errors import Error
from tgi_server.router.http.openapi.operations import (
    DEFECT,
    EVENTS,
    HEADERS,
    STREAM_HEADERS,
    Api,
    Operation,
    Responses,
    broken_rule,
    events,
    json_answer,
    list_of,
    post_operation,
    server_error,
    unreadable,
    with_headers,
)
from tgi_server.router.http.openapi.schemas import ref
from tgi_server.router.native.answers import Generated, StreamEvent, TokenSpan
from tgi_server.router.native.requests import GenerateBody

TAG = "Text Generation Inference"
EXAMPLE = {"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}}


def api() -> Api:
    """The part about this API."""
    paths = {
        "/": {"post": compatible("compatible")},
        "/generate": {"post": _generate()},
        "/generate_stream": {"post": _generate_stream()},
        "/tokenize": {"post": _tokenize()},
    }
    types = {
        "GenerateBody": GenerateBody,
        "Generated": Generated,
        "StreamEvent": StreamEvent,
        "TokenSpan": TokenSpan,
        "Error": Error,
    }
    return Api(TAG, "Texts and tokens.", paths, types)


def _generate() -> Operation:
    whole = json_answer("The generated text.", ref("Generated"), HEADERS)
    return post_operation("generate", TAG, "Generate a text", "GenerateBody", EXAMPLE, _generating(whole))


def _generate_stream() -> Operation:
    return post_operation(
        "generate_stream",
        TAG,
        "Generate a text, token by token",
        "GenerateBody",
        EXAMPLE,
        {"200": with_headers(_native_events(), STREAM_HEADERS), **unreadable(), "500": server_error(DEFECT)},
    )


def compatible(name: str) -> Operation:
    """`/` and what stands for it."""
    whole = json_answer("A list of one text, or events if `stream` is true.", list_of("Generated"), HEADERS)
    whole["content"] |= _native_events()["content"]
    body = {**EXAMPLE, "stream": False}
    return post_operation(
        name, TAG, "Generate a text, whole or token by token", "GenerateBody", body, _generating(whole)
    )


def _tokenize() -> Operation:
    responses = {"200": json_answer("The tokens, special ones included.", list_of("TokenSpan")), **unreadable()}
    responses |= {"422": broken_rule("The body has another shape, or the text cannot be tokenised.")}
    responses |= {"500": server_error(DEFECT)}
    example = {"inputs": "What is deep learning?"}
    return post_operation("tokenize", TAG, "Take a text apart", "GenerateBody", example, responses)


def _generating(whole: dict[str, Any]) -> Responses:
    """What the native routes answer that may be `whole`."""
    return {
        "200": whole,
        **unreadable(),
        "422": broken_rule("The body has another shape (plain text), or breaks a rule (JSON)."),
        "424": server_error("A shard failed."),
        "429": server_error("There are `max_concurrent_requests` requests already."),
        "500": server_error("The generation ended early, or a defect of the server."),
        "503": server_error("The server is about to stop."),
    }


def _native_events() -> dict[str, Any]:
    about = f"{EVENTS}Errors, also of the request, are an event and the last one."
    return {"description": about, "content": events(about, "StreamEvent", "Error")}
