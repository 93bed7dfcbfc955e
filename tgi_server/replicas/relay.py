"""The way of one answer from its replica to its client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from tgi_server.errors import GenerationError, TgiError
from tgi_server.replicas.answers import Answers
from tgi_server.replicas.call import Head
from tgi_server.router.http.identity import known_of

LOST = "the replica that worked on the request was lost"

logger = logging.getLogger(__name__)


class LostError(Exception):
    """A replica died, or did not answer any more."""


class Relay:
    """Passes an answer on, piece by piece.

    Args:
        answers: tells the client of what goes wrong.
    """

    def __init__(self, answers: Answers, scope: Any, send: Any) -> None:
        self._answers = answers
        self._scope = scope
        self._send = send
        self._head: Head | None = None
        self._why: TgiError | None = None
        self._task: asyncio.Task[Any] | None = None

    @property
    def begun(self) -> bool:
        """Whether the client has the beginning of its answer."""
        return self._head is not None

    def end(self, error: TgiError) -> None:
        """End the request at its replica, and tell the client why."""
        if self._why is None and self._task is not None:
            self._why = error
            self._task.cancel()

    async def run(self, pieces: AsyncGenerator[Head | bytes, None]) -> None:
        """Until the last piece, a loss, or `end`. Cancelling it ends the request at its replica."""
        self._task = asyncio.current_task()
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    await self._pass_on(piece)
            await self._send({"type": "http.response.body", "body": b""})
        except LostError as error:
            scope = self._scope
            logger.warning("%s %s (%s): %s", scope["method"], scope["path"], known_of(scope).id, error)
            await self._answers.lose(scope, self._head, GenerationError(LOST), self._send)
        except asyncio.CancelledError:
            if self._why is None:
                raise
            await self._answers.lose(self._scope, self._head, self._why, self._send)

    async def _pass_on(self, piece: Head | bytes) -> None:
        if isinstance(piece, Head):
            self._head = piece
            await self._send({"type": "http.response.start", "status": piece.status, "headers": piece.headers})
        else:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
