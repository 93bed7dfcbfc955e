"""The document itself: every route with what it takes and what it answers."""

from __future__ import annotations

from typing import Any

from tgi_server import __version__
from tgi_server.router.openapi.schemas import Schema, components, ref
from tgi_server.router.openapi.words import HEADERS

Operation = dict[str, Any]
Responses = dict[str, Any]

NATIVE, OPENAI, OPERATORS = "Text Generation Inference", "OpenAI", "Operators"

_INFO = {
    "title": "Text Generation Inference",
    "description": "A text generation server. Fields of requests that are not listed are ignored.",
    "version": __version__,
    "license": {"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
}
_TAGS = [
    {"name": NATIVE, "description": "Texts and tokens."},
    {"name": OPENAI, "description": "The same for clients of OpenAI's API."},
    {"name": OPERATORS, "description": "How the server is, and what it serves."},
]
_EVENTS = "Server-sent events, each one line `data: ` with JSON; lines that begin with `:` are to be left out. "
_NATIVE_EXAMPLE = {"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}}
_CHAT_EXAMPLE = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 20}
_STREAM_HEADERS = ("x-compute-type", "x-compute-characters")


def document(chat_at_invocations: bool) -> dict[str, Any]:
    """The document; `chat_at_invocations` tells what `/invocations` stands for.

    Addresses are relative to its own, so that they are right behind a proxy that takes a prefix away.
    """
    return {
        "openapi": "3.0.3",
        "info": _INFO,
        "servers": [{"url": "..", "description": "This server"}],
        "tags": _TAGS,
        "paths": _paths(chat_at_invocations),
        "components": {
            "schemas": components(),
            "headers": {name: _header(name, text) for name, text in HEADERS.items()},
        },
    }


def _header(name: str, text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string" if name == "x-compute-type" else "integer"}}


def _paths(chat_at_invocations: bool) -> dict[str, dict[str, Operation]]:
    return {
        "/": {"post": _compatible("compatible"), "get": _health("root_health")},
        "/generate": {"post": _generate()},
        "/generate_stream": {"post": _generate_stream()},
        "/tokenize": {"post": _tokenize()},
        "/invocations": {"post": _chat("invocations") if chat_at_invocations else _compatible("invocations")},
        "/v1/chat/completions": {"post": _chat("chat")},
        "/v1/completions": {"post": _completion()},
        "/v1/models": {"get": _models()},
        "/v1/models/{name}": {"get": _model()},
        "/health": {"get": _health("health")},
        "/ping": {"get": _health("ping")},
        "/info": {"get": _info()},
        "/metrics": {"get": _metrics()},
    }


def _generate() -> Operation:
    whole = _json("The generated text.", ref("Generated"), HEADERS)
    return _post("generate", NATIVE, "Generate a text", "GenerateBody", _NATIVE_EXAMPLE, _generating(whole))


def _generate_stream() -> Operation:
    return _post(
        "generate_stream",
        NATIVE,
        "Generate a text, token by token",
        "GenerateBody",
        _NATIVE_EXAMPLE,
        {"200": _with_headers(_native_events(), _STREAM_HEADERS), **_unreadable(), "500": _native_error(_DEFECT)},
    )


def _compatible(name: str) -> Operation:
    whole = _json("A list of one text, or events if `stream` is true.", _list("Generated"), HEADERS)
    whole["content"] |= _native_events()["content"]
    body = {**_NATIVE_EXAMPLE, "stream": False}
    return _post(name, NATIVE, "Generate a text, whole or token by token", "GenerateBody", body, _generating(whole))


def _tokenize() -> Operation:
    responses = {"200": _json("The tokens, special ones included.", _list("TokenSpan")), **_unreadable()}
    responses |= {"422": _broken_rule("The body has another shape, or the text cannot be tokenised.")}
    responses |= {"500": _native_error(_DEFECT)}
    example = {"inputs": "What is deep learning?"}
    return _post("tokenize", NATIVE, "Take a text apart", "GenerateBody", example, responses)


def _chat(name: str) -> Operation:
    responses = _openai("ChatCompletion", "ChatChunk")
    return _post(name, OPENAI, "Answer a conversation", "ChatBody", _CHAT_EXAMPLE, responses)


def _completion() -> Operation:
    example = {"prompt": "What is deep learning?", "max_tokens": 20}
    responses = _openai("TextCompletion", "TextChunk")
    del responses["422"]
    return _post("completion", OPENAI, "Continue a text", "CompletionBody", example, responses)


def _models() -> Operation:
    return _get("models", OPENAI, "The models that are served", {"200": _json("One model.", ref("ModelList"))})


def _model() -> Operation:
    responses = {"200": _json("The model.", ref("Model")), "404": _openai_error("There is no such model.")}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return _get("model", OPENAI, "A model that is served", responses) | {"parameters": [name]}


def _health(name: str) -> Operation:
    healthy = {"description": "The server answers requests. The body is empty."}
    ill = _native_error("A shard does not answer, or the server is about to stop.")
    return _get(name, OPERATORS, "Whether the server is well", {"200": healthy, "503": ill})


def _info() -> Operation:
    told = _json("Names, limits and versions.", ref("Info"))
    return _get("info", OPERATORS, "What is served, and within which limits", {"200": told})


def _metrics() -> Operation:
    return _get("metrics", OPERATORS, "What was counted and measured", {"200": _plain("For Prometheus.")})


def _get(name: str, tag: str, summary: str, responses: Responses) -> Operation:
    return {"operationId": name, "tags": [tag], "summary": summary, "responses": responses}


def _post(name: str, tag: str, summary: str, body: str, example: Any, responses: Responses) -> Operation:
    content = {"application/json": {"schema": ref(body), "example": example}}
    return {**_get(name, tag, summary, responses), "requestBody": {"required": True, "content": content}}


_DEFECT = "A defect of the server."


def _unreadable() -> Responses:
    """Errors that come before anything else, as plain text."""
    return {
        "400": _plain("The body is not JSON."),
        "408": _plain("The body did not arrive in time."),
        "413": _plain("The body is too long."),
        "415": _plain("The `Content-Type` is not `application/json`, or there is a `Content-Encoding`."),
        "422": _plain("The body has another shape; the text names the field."),
    }


def _generating(whole: dict[str, Any]) -> Responses:
    """What the native routes answer that may be `whole`."""
    return {
        "200": whole,
        **_unreadable(),
        "422": _broken_rule("The body has another shape (plain text), or breaks a rule (JSON)."),
        "424": _native_error("A shard failed."),
        "429": _native_error("There are `max_concurrent_requests` requests already."),
        "500": _native_error("The generation ended early, or a defect of the server."),
        "503": _native_error("The server is about to stop."),
    }


def _openai(whole: str, chunk: str) -> Responses:
    """What the routes of the OpenAI API answer."""
    answer = _json("The answer, or events if `stream` is true.", ref(whole), HEADERS)
    about = f"{_EVENTS}After the last one comes `data: [DONE]`."
    answer["content"] |= _events(about, chunk, "OpenAIErrorEnvelope")
    return {
        "200": answer,
        "400": _openai_error("The body cannot be read, or breaks a rule."),
        "408": _plain("The body did not arrive in time."),
        "413": _openai_error("The body is too long."),
        "422": _openai_error("The chat template refuses the conversation, or there is none."),
        "429": _openai_error("There are `max_concurrent_requests` requests already."),
        "500": _openai_error("A shard failed, or a defect of the server."),
        "503": _openai_error("The server is about to stop."),
    }


def _native_events() -> dict[str, Any]:
    about = f"{_EVENTS}Errors, also of the request, are an event and the last one."
    return {"description": about, "content": _events(about, "StreamEvent", "Error")}


def _events(about: str, event: str, error: str) -> dict[str, Any]:
    return {"text/event-stream": {"schema": {"anyOf": [ref(event), ref(error)], "description": about}}}


def _native_error(description: str) -> dict[str, Any]:
    return _json(description, ref("Error"))


def _openai_error(description: str) -> dict[str, Any]:
    return _json(description, ref("OpenAIErrorEnvelope"))


def _broken_rule(description: str) -> dict[str, Any]:
    response = _native_error(description)
    response["content"] |= _plain(description)["content"]
    return response


def _plain(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}


def _json(description: str, schema: Schema, headers: Any = ()) -> dict[str, Any]:
    response = {"description": description, "content": {"application/json": {"schema": schema}}}
    return _with_headers(response, headers) if headers else response


def _with_headers(response: dict[str, Any], names: Any) -> dict[str, Any]:
    return {**response, "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}}


def _list(name: str) -> Schema:
    return {"type": "array", "items": ref(name)}
