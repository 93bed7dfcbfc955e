"""Whether answers are what the OpenAPI document says, to the last key."""

from __future__ import annotations

import json
from typing import Any

from openapi_schema_validator import OAS30Validator
from quart import Response

from tgi_server.router.document import document

DOCUMENT = document(chat_at_invocations=False)


def validator(schema: dict[str, Any], components: dict[str, Any]) -> OAS30Validator:
    """Of a schema that refers to those of `components`."""
    return OAS30Validator({"allOf": [schema], "components": components})


def strict(schema: Any, closed: bool) -> Any:
    """A schema, or what holds some, that allows no other fields than it names if `closed`.

    Discriminators, which are but hints, are left out: the validator fails where one finds a list.
    """
    if isinstance(schema, list):
        return [strict(each, closed) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(value, closed) for key, value in schema.items() if key != "discriminator"}
    if closed and schema.get("type") == "object" and "properties" in schema:
        inner["additionalProperties"] = False
    return inner


COMPONENTS = strict(DOCUMENT["components"], closed=True)


async def check(method: str, path: str, response: Response) -> Any:
    """Status, headers and body of `response` are documented; the body, or the list of its events.

    Raises:
        AssertionError: one of them is not.
    """
    operation = DOCUMENT["paths"][path][method.lower()]
    assert str(response.status_code) in operation["responses"], f"{path} answers {response.status_code}"
    documented = operation["responses"][str(response.status_code)]
    text = await response.get_data(as_text=True)
    if "content" not in documented:
        assert text == ""
        return text
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in documented["content"], f"{path} answers {response.status_code} with {kind}"
    sent = {name.lower() for name, _ in response.headers.items()}
    sent = {name for name in sent if name.startswith("x-")} - {"x-accel-buffering"}
    allowed = set(documented.get("headers", {}))
    assert sent <= allowed and (kind == "text/event-stream" or sent == allowed)
    return _checked(text, kind, documented["content"][kind]["schema"])


def _checked(text: str, kind: str, schema: dict[str, Any]) -> Any:
    if kind == "application/json":
        body = json.loads(text)
        values = [body]
    elif kind == "text/event-stream":
        assert text.endswith("\n\n")
        events = [event.rpartition("data: ")[2] for event in text[:-2].split("\n\n")]
        values = body = [json.loads(event) for event in events if event != "[DONE]"]
    else:
        values, body = [text], text
    for value in values:
        errors = [error.message for error in validator(schema, COMPONENTS).iter_errors(value)]
        assert not errors, (value, errors)
    return body
