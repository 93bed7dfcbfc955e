"""Errors in the words of the Anthropic API."""

from __future__ import annotations

from tgi_server.errors import GenerationError, TgiError
from tgi_server.router.anthropic.answers import AnthropicError, AnthropicErrorEnvelope, ErrorKind
from tgi_server.router.http.limits import CONTEXT_LENGTH_EXCEEDED

_KINDS: dict[int, ErrorKind] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
"""Anthropic's words by its statuses; all others are `invalid_request_error`."""


def error_status(error: TgiError) -> int:
    """HTTP status: 400 for what the client did, 429 where there are too many requests, 529 where none is taken any
    more, 500 for what failed."""
    if isinstance(error, GenerationError) or error.status == 500:
        return 500
    return {429: 429, 503: 529}.get(error.status, 400)


def envelope(error: TgiError, request_id: str) -> AnthropicErrorEnvelope:
    """The error object of the Anthropic API. What is too long is told in the words that clients look for."""
    message = error.public_message()
    if getattr(error, "code", None) == CONTEXT_LENGTH_EXCEEDED:
        message = f"prompt is too long: {error}"
    return error_object(error_status(error), message, request_id)


def error_object(status: int, message: str, request_id: str) -> AnthropicErrorEnvelope:
    """`{"type": "error", …}` as Anthropic's clients read it; `status` is that of the answer."""
    return AnthropicErrorEnvelope(AnthropicError(_KINDS.get(status, "invalid_request_error"), message), request_id)
