"""The OpenAPI document about the Anthropic API."""

from __future__ import annotations

from typing import Any

from tgi_server.router.anthropic.answers import EVENTS, AnthropicErrorEnvelope, AssistantTurn, TokenCount
from tgi_server.router.anthropic.requests import ConversationBody, MessagesBody
from tgi_server.router.http.openapi.operations import (
    HEADERS,
    Api,
    Operation,
    Responses,
    events,
    json_answer,
    plain,
    post_operation,
)
from tgi_server.router.http.openapi.schemas import ref

TAG = "Anthropic"
COUNTED = "ConversationBody"
ERROR = "AnthropicErrorEnvelope"
CONVERSATION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
ABOUT = "Server-sent events, each a line `event: ` with its type and a line `data: ` with JSON."


def api() -> Api:
    """The part about this API."""
    paths = {"/v1/messages": {"post": _message()}, "/v1/messages/count_tokens": {"post": _count()}}
    types = {
        "MessagesBody": MessagesBody,
        COUNTED: ConversationBody,
        "AssistantTurn": AssistantTurn,
        "TokenCount": TokenCount,
        ERROR: AnthropicErrorEnvelope,
        **{kind.__name__: kind for kind in EVENTS},
    }
    return Api(TAG, "The same for clients of Anthropic's API.", paths, types, refusal=ERROR)


def _message() -> Operation:
    whole = json_answer("The message, or events if `stream` is true.", ref("AssistantTurn"), HEADERS)
    whole["content"] |= events(ABOUT, *(kind.__name__ for kind in EVENTS), ERROR)
    responses = {
        "200": whole,
        **_unreadable(),
        "429": _error("There are `max_concurrent_requests` requests already."),
        "500": _error("A shard failed, or a defect of the server."),
        "529": _error("The server is about to stop."),
    }
    example = {**CONVERSATION, "max_tokens": 20}
    return post_operation("message", TAG, "Answer a conversation", "MessagesBody", example, responses)


def _count() -> Operation:
    responses = {
        "200": json_answer("The length of the prompt.", ref("TokenCount")),
        **_unreadable(),
        "500": _error("A defect of the server."),
    }
    return post_operation("count_tokens", TAG, "Count the tokens of a prompt", COUNTED, CONVERSATION, responses)


def _unreadable() -> Responses:
    """Errors of the client's."""
    return {
        "400": _error("The body cannot be read, or breaks a rule, or the chat template refuses the conversation."),
        "408": plain("The body did not arrive in time."),
        "413": _error("The body is too long."),
    }


def _error(description: str) -> dict[str, Any]:
    return json_answer(description, ref(ERROR))
