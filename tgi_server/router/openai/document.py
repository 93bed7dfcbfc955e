"""The OpenAPI document about the OpenAI API."""

from __future__ import annotations

from typing import Any

from tgi_server.router.http.openapi.operations import (
    EVENTS,
    HEADERS,
    Api,
    Operation,
    Responses,
    events,
    get_operation,
    json_answer,
    plain,
    post_operation,
)
from tgi_server.router.http.openapi.schemas import ref
from tgi_server.router.openai.answers import (
    Chunk,
    Completion,
    MessageChoice,
    MessagePiece,
    ModelList,
    OpenAIErrorEnvelope,
    TextChoice,
)
from tgi_server.router.openai.rendering import ChatAnswer, CompletionAnswer
from tgi_server.router.openai.requests import ChatBody, CompletionBody

TAG = "OpenAI"
EXAMPLE = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 20}


def api() -> Api:
    """The part about this API."""
    paths = {
        "/v1/chat/completions": {"post": chat("chat")},
        "/v1/completions": {"post": _completion()},
        "/v1/models": {"get": _models()},
        "/v1/models/{name}": {"get": _model()},
    }
    types = {
        "ChatBody": ChatBody,
        "CompletionBody": CompletionBody,
        "ChatCompletion": Completion[MessageChoice],
        "ChatChunk": Chunk[MessagePiece],
        "TextCompletion": Completion[TextChoice],
        "TextChunk": Chunk[TextChoice],
        "ModelList": ModelList,
        "OpenAIErrorEnvelope": OpenAIErrorEnvelope,
    }
    constants = {
        "ChatCompletion": {"object": ChatAnswer.kind},
        "ChatChunk": {"object": ChatAnswer.chunk_kind},
        "TextCompletion": {"object": CompletionAnswer.kind},
        "TextChunk": {"object": CompletionAnswer.chunk_kind},
    }
    return Api(TAG, "The same for clients of OpenAI's API.", paths, types, constants, "OpenAIErrorEnvelope")


def chat(name: str) -> Operation:
    """`/v1/chat/completions` and what stands for it."""
    responses = _openai("ChatCompletion", "ChatChunk")
    return post_operation(name, TAG, "Answer a conversation", "ChatBody", EXAMPLE, responses)


def _completion() -> Operation:
    example = {"prompt": "What is deep learning?", "max_tokens": 20}
    responses = _openai("TextCompletion", "TextChunk")
    del responses["422"]
    return post_operation("completion", TAG, "Continue a text", "CompletionBody", example, responses)


def _models() -> Operation:
    return get_operation(
        "models", TAG, "The models that are served", {"200": json_answer("One model.", ref("ModelList"))}
    )


def _model() -> Operation:
    responses = {"200": json_answer("The model.", ref("Model")), "404": _openai_error("There is no such model.")}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return get_operation("model", TAG, "A model that is served", responses) | {"parameters": [name]}


def _openai(whole: str, chunk: str) -> Responses:
    """What the routes of the OpenAI API answer."""
    answer = json_answer("The answer, or events if `stream` is true.", ref(whole), HEADERS)
    about = f"{EVENTS}After the last one comes `data: [DONE]`."
    answer["content"] |= events(about, chunk, "OpenAIErrorEnvelope")
    return {"200": answer, **errors()}


def errors() -> Responses:
    """What the routes of the OpenAI API answer where they cannot do what is asked."""
    return {
        "400": _openai_error("The body cannot be read, or breaks a rule."),
        "408": plain("The body did not arrive in time."),
        "413": _openai_error("The body is too long."),
        "422": _openai_error("The chat template refuses the conversation, or there is none."),
        "429": _openai_error("There are `max_concurrent_requests` requests already."),
        "500": _openai_error("A shard failed, or a defect of the server."),
        "503": _openai_error("The server is about to stop."),
    }


def _openai_error(description: str) -> dict[str, Any]:
    return json_answer(description, ref("OpenAIErrorEnvelope"))
