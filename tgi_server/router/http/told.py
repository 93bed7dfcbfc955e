"""One log line for requests that no book is kept about: those refused before, and those that generate nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from http.client import responses

from quart import Quart, Response, request

from tgi_server.router.http.identity import Known, known
from tgi_server.router.http.openapi.operations import REQUEST_ID
from tgi_server.telemetry.logging import SPAN

logger = logging.getLogger(__name__)


class Told:
    """Gives every answer its request's id, and requests a line that have none of `Book`.

    Args:
        silent: the blueprints whose requests are not worth a line, nor an id: those of probes and pages.
    """

    def __init__(self, silent: Collection[str]) -> None:
        self._silent = frozenset(silent)

    def install(self, app: Quart) -> None:
        """Before all that may refuse a request."""
        app.before_request(self.arrived)
        app.after_request(self.answered)

    async def arrived(self) -> None:
        """The head of a request is there."""
        known()

    async def answered(self, response: Response) -> Response:
        """Its answer is about to begin."""
        if request.blueprint not in self._silent:
            about = known()
            response.headers[REQUEST_ID] = about.id
            if not about.booked:
                self._tell(response.status_code, about)
        return response

    def _tell(self, status: int, about: Known) -> None:
        level = logging.ERROR if status >= 500 else logging.INFO
        refusal = about.reason or responses.get(status, "")
        message = f"Refused: {refusal}" if status >= 400 else "Answered"
        span = {
            "total_time": f"{time.monotonic() - about.arrived:.6f}s", "status": status,
            "route": request.url_rule.rule if request.url_rule is not None else None, "method": request.method,
            "request_id": about.id,
        }  # fmt: skip
        logger.log(level, "%s", message, extra={SPAN: span})
