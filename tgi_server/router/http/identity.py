"""What a request is called: by its caller, in answers, logs and traces."""

from __future__ import annotations

import re
import uuid

from quart import g, request

from tgi_server.router.http.openapi.operations import REQUEST_ID

_HARMLESS = re.compile(r"[!-~]{1,128}")
"""Visible ASCII: whatever else a caller sends is not taken over."""


def request_id() -> str:
    """The id of the current request: that of the caller's `x-request-id` if it is a harmless one, or a new one."""
    if "request_id" not in g:
        given = request.headers.get(REQUEST_ID, "")
        g.request_id = given if _HARMLESS.fullmatch(given) else f"req_{uuid.uuid4().hex}"
    return str(g.request_id)
