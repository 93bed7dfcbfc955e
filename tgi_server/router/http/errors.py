"""Errors as the server's own endpoints tell them, those of TGI among them."""

from __future__ import annotations

from typing import TypedDict

from quart import Response

from tgi_server.errors import TgiError
from tgi_server.router.http.body import answer
from tgi_server.router.http.wire import BodyError


class Error(TypedDict):
    """Why a request has no answer."""

    error: str
    """What is wrong, for a person."""
    error_type: str
    """What is wrong, for a program: `validation`, `template_error`, `overloaded`, `generation`,
    `incomplete_generation`, `healthcheck`, `authentication` or `internal`."""


def error_body(error: TgiError) -> Error:
    """`{error, error_type}`."""
    return {"error": error.public_message(), "error_type": error.error_type}


async def error_response(error: TgiError) -> Response:
    """Plain text for a body that cannot be read, `{error, error_type}` for everything else."""
    if isinstance(error, BodyError):
        return Response(str(error), status=error.status, content_type="text/plain; charset=utf-8")
    return answer(error_body(error), error.status)
