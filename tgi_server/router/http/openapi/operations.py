"""What the parts of the OpenAPI document are made with: routes, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tgi_server.router.http.openapi.schemas import Schema, ref

Operation = dict[str, Any]
Responses = dict[str, Any]

EVENTS = "Server-sent events, each one line `data: ` with JSON; lines that begin with `:` are to be left out. "
DEFECT = "A defect of the server."
STREAM_HEADERS = ("x-compute-type", "x-compute-characters")
REQUEST_ID = "x-request-id"
HEADERS = {
    REQUEST_ID: "What logs and traces call the request: its own header of that name, or a new id.",
    "x-compute-type": "What the model runs on.",
    "x-compute-characters": "Length of the prompt, in characters.",
    "x-compute-time": "Time from arrival to answer, in milliseconds, as `x-total-time`.",
    "x-total-time": "Time from arrival to answer, in milliseconds.",
    "x-validation-time": "Time for checking and tokenising, in milliseconds.",
    "x-queue-time": "Time waited for a place in the batch, in milliseconds.",
    "x-inference-time": "Time from there to the end of the text, in milliseconds.",
    "x-time-per-token": "The same for each generated token, in milliseconds.",
    "x-prompt-tokens": "Length of the prompt, in tokens.",
    "x-generated-tokens": "Number of generated tokens.",
}
"""Of answers."""
_TEXTS = (REQUEST_ID, "x-compute-type")


KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""Ways to send a key, as security schemes."""


@dataclass(frozen=True, slots=True)
class Api:
    """The part of the document about one API.

    Attributes:
        tag: its name.
        description: a sentence about it.
        paths: its routes by path and method.
        types: what the routes refer to, by name: types of requests and answers.
        constants: values of text fields that are always the same, by type and field.
        refusal: what a request without a key is answered, where the server has keys; None where none is needed.
    """

    tag: str
    description: str
    paths: Mapping[str, Mapping[str, Operation]]
    types: Mapping[str, Any]
    constants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refusal: str | None = "Error"

    def identified(self, operation: Operation) -> Operation:
        """The operation, each of whose answers names the request; none does where no key is needed."""
        if self.refusal is None:
            return operation
        responses = {
            status: with_headers(response, (REQUEST_ID, *response.get("headers", ())))
            for status, response in operation["responses"].items()
        }
        return {**operation, "responses": responses}

    def guarded(self, operation: Operation) -> Operation:
        """The operation on a server that has keys."""
        if self.refusal is None:
            return operation
        refused = json_answer("The API key is missing or wrong.", ref(self.refusal))
        responses = {"401": refused, **operation["responses"]}
        return {**operation, "security": [{name: []} for name in KEYS], "responses": responses}


def get_operation(name: str, tag: str, summary: str, responses: Responses) -> Operation:
    """A route that takes no body."""
    return {"operationId": name, "tags": [tag], "summary": summary, "responses": responses}


def post_operation(name: str, tag: str, summary: str, body: str, example: Any, responses: Responses) -> Operation:
    """A route that takes a body of the schema `body`."""
    content = {"application/json": {"schema": ref(body), "example": example}}
    return {**get_operation(name, tag, summary, responses), "requestBody": {"required": True, "content": content}}


def unreadable() -> Responses:
    """Errors that come before anything else, as plain text."""
    return {
        "400": plain("The body is not JSON."),
        "408": plain("The body did not arrive in time."),
        "413": plain("The body is too long."),
        "415": plain("The `Content-Type` is not `application/json`, or there is a `Content-Encoding`."),
        "422": plain("The body has another shape; the text names the field."),
    }


def events(about: str, *kinds: str) -> dict[str, Any]:
    """A stream of events, each of one of these kinds; errors are one of them."""
    return {"text/event-stream": {"schema": {"anyOf": [ref(kind) for kind in kinds], "description": about}}}


def server_error(description: str) -> dict[str, Any]:
    """An error as the server's own endpoints tell it."""
    return json_answer(description, ref("Error"))


def broken_rule(description: str) -> dict[str, Any]:
    """An error that is JSON, or plain text if it is told while the body is read."""
    response = server_error(description)
    response["content"] |= plain(description)["content"]
    return response


def plain(description: str) -> dict[str, Any]:
    """An answer of plain text."""
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}


def json_answer(description: str, schema: Schema, headers: Any = ()) -> dict[str, Any]:
    """An answer of JSON."""
    response = {"description": description, "content": {"application/json": {"schema": schema}}}
    return with_headers(response, headers) if headers else response


def with_headers(response: dict[str, Any], names: Any) -> dict[str, Any]:
    """The response with the headers of these names."""
    return {**response, "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}}


def list_of(name: str) -> Schema:
    """A list of what the schema `name` describes."""
    return {"type": "array", "items": ref(name)}


def header(name: str, text: str) -> dict[str, Any]:
    """A header that answers may have."""
    return {"description": text, "schema": {"type": "string" if name in _TEXTS else "integer"}}
