"""Reading request bodies and writing answers, the same for all routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quart import Response, request

from tgi_server.router.wire import BodyType, dumps, parse


async def read(body_type: type[BodyType]) -> BodyType:
    """The body of the current request.

    Raises:
        BodyError: it cannot be read as a `body_type`.
    """
    data = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    return parse(body_type, data, request.headers.get("content-type", ""))


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(dumps(body), status=status, content_type="application/json", headers=dict(headers or {}))
