"""What is told of clients that are turned away by the connection itself, of whom the application never hears."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from http.client import responses

from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.seldom import Seldom, since_last

logger = logging.getLogger(__name__)

OTHER = "other"
"""The route that stands for all paths that are none of the server's."""


class TurnedAway:
    """Counts them where all other answers are counted, and logs them."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._seldom = Seldom(clock)

    def add(self, status: int, reason: str) -> None:
        """One more; `reason` is one of a few sentences of ours."""
        self._metrics.counter("tgi_http_responses", route=OTHER, status=str(status))
        if count := self._seldom.due(reason):
            logger.info("Turned away: %d %s: %s%s", status, responses[status], reason, since_last(count))
