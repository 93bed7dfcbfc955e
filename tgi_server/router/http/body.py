"""Reading request bodies and writing answers, the same for all routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quart import Response, request
from werkzeug.datastructures import Headers

from tgi_server.router.http.identity import known
from tgi_server.router.http.wire import BodyError, BodyType, check_type, dumps, parse


async def read(body_type: type[BodyType]) -> BodyType:
    """The body of the current request.

    Raises:
        BodyError: it cannot be read as a `body_type`.
    """
    try:
        return await _read(body_type)
    except BodyError as error:
        known().reason = error.log_message()
        raise


async def _read(body_type: type[BodyType]) -> BodyType:
    content_type = check_head(request.headers)  # it needs no body, and one that is too long is another error
    data = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    return parse(body_type, data, content_type)


def check_head(headers: Mapping[str, str] | Headers) -> str:
    """The content type of a request with these headers; raises BodyError (415) for one whose body cannot be read."""
    content_type = headers.get("content-type", "")
    check_type(content_type)
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        message = f"Content-Encoding {encoding} is not supported: send the body as it is"
        raise BodyError(message, 415, logged="another Content-Encoding than identity")
    return content_type


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(dumps(body), status=status, content_type="application/json", headers=dict(headers or {}))
