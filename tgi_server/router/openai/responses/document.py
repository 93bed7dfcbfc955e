"""The OpenAPI document about the Responses API."""

from __future__ import annotations

from typing import Any

from tgi_server.router.http.openapi.operations import (
    HEADERS,
    Api,
    Operation,
    events,
    get_operation,
    json_answer,
    post_operation,
)
from tgi_server.router.http.openapi.schemas import ref
from tgi_server.router.openai.document import errors
from tgi_server.router.openai.responses.answers import EVENTS, ResponseObject
from tgi_server.router.openai.responses.requests import ResponsesBody

TAG = "OpenAI Responses"
ERROR = "OpenAIErrorEnvelope"
EXAMPLE = {"input": "What is the capital of France?", "max_output_tokens": 20}
ABOUT = "Server-sent events, each a line `event: ` with its type and a line `data: ` with JSON."


def api() -> Api:
    """The part about this API."""
    paths = {
        "/v1/responses": {"post": _response()},
        "/v1/responses/{name}": {"get": _kept("fetch_response"), "delete": _kept("delete_response")},
    }
    types = {
        "ResponsesBody": ResponsesBody,
        "ResponseObject": ResponseObject,
        **{kind.__name__: kind for kind in EVENTS},
    }
    return Api(TAG, "The newer API of OpenAI's, without a memory.", paths, types, refusal=ERROR)


def _response() -> Operation:
    whole = json_answer("The response, or events if `stream` is true.", ref("ResponseObject"), HEADERS)
    whole["content"] |= events(ABOUT, *(kind.__name__ for kind in EVENTS))
    responses = {"200": whole, **errors()}
    return post_operation("response", TAG, "Answer a conversation", "ResponsesBody", EXAMPLE, responses)


def _kept(name: str) -> Operation:
    responses: dict[str, Any] = {"404": json_answer("Nothing is kept.", ref(ERROR))}
    parameter = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return get_operation(name, TAG, "An earlier response", responses) | {"parameters": [parameter]}
