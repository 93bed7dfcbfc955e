"""What a request is called, by its caller, in answers, logs and traces; and what is remembered of it until its end."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, cast

from quart import request

from tgi_server.router.http.openapi.operations import REQUEST_ID

_KEY = "tgi_server.known"
_HEADER = REQUEST_ID.encode()
_HARMLESS = re.compile(rb"[!-~]{1,128}")
"""Visible ASCII: whatever else a caller sends is not taken over."""


@dataclass(slots=True)
class Known:
    """Of a request: its id, its arrival on the monotonic clock, whether a book is kept of it, why it was refused."""

    id: str
    arrived: float = field(default_factory=time.monotonic)
    booked: bool = False
    reason: str | None = None


def known() -> Known:
    """What is known of the current request."""
    return known_of(cast(dict[str, Any], request.scope))


def known_of(scope: dict[str, Any]) -> Known:
    """What is known of a request. It lives in the connection's scope: whoever has that looks it up fast."""
    found: Known | None = scope.get(_KEY)
    if found is None:
        found = scope[_KEY] = Known(_id(scope))
    return found


def request_id() -> str:
    """The id of the current request: that of the caller's `x-request-id` if it is a harmless one, or a new one."""
    return known().id


def _id(scope: dict[str, Any]) -> str:
    for name, value in scope["headers"]:
        if name == _HEADER and _HARMLESS.fullmatch(value):
            return str(value.decode())
    return f"req_{token_hex(16)}"
