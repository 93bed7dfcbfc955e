"""What is told of clients that are turned away by the connection itself, of whom the application never hears."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from http.client import responses

from tgi_server.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

OTHER = "other"
"""The route that stands for all paths that are none of the server's."""
SILENCE = 60.0
"""Seconds without a line after one about the same: whoever means ill could fill the disk."""


class TurnedAway:
    """Counts them where all other answers are counted, and logs them."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._untold: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    def add(self, status: int, reason: str) -> None:
        """One more; `reason` is one of a few sentences of ours."""
        self._metrics.counter("tgi_http_responses", route=OTHER, status=str(status))
        self._untold[reason] += 1
        now = self._clock()
        if now - self._told.get(reason, -math.inf) >= SILENCE:
            self._told[reason] = now
            count = self._untold.pop(reason)
            times = f" ({count} since the last such line)" if count > 1 else ""
            logger.info("Turned away: %d %s: %s%s", status, responses[status], reason, times)
