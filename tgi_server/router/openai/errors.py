"""Errors in the words of the OpenAI API."""

from __future__ import annotations

from tgi_server.errors import GenerationError, TemplateError, TgiError
from tgi_server.router.openai.answers import ErrorKind, OpenAIErrorEnvelope

_ERROR_TYPES: dict[int, ErrorKind] = {
    400: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def error_status(error: TgiError) -> int:
    """HTTP status on `/v1/*`: 400 for what the client did, 422 for what the template says to it, 429 and 5xx as they
    are; a failed shard is a 500."""
    if isinstance(error, GenerationError):
        return 500
    if isinstance(error, TemplateError):
        return 422
    return error.status if error.status == 429 or error.status >= 500 else 400


def envelope(error: TgiError) -> OpenAIErrorEnvelope:
    """The error object of the OpenAI API. `code` is OpenAI's word for the error, or else the server's own."""
    kind = _ERROR_TYPES.get(error_status(error), "server_error")
    code = getattr(error, "code", None) or error.error_type
    return error_object(error.public_message(), kind, getattr(error, "param", None), code)


def error_object(message: str, kind: ErrorKind, param: str | None, code: str | None) -> OpenAIErrorEnvelope:
    """`{"error": …}` as OpenAI clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
