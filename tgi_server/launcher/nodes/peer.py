"""Another node, as a launcher knows it once each of the two has shown who it is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tgi_server.launcher.nodes.link import Link, Message, UntrustedError

_BEAT = 1.0
"""Seconds between two signs of life, or a fifth of the time after which a node is lost, if that is less."""

logger = logging.getLogger(__name__)


class Peer:
    """Two threads hear what it says, and tell it that this node is there.

    Args:
        connection: to it; its timeout is `silence`.
        name: how messages call it.
        silence: seconds without a word after which it is lost.
        asks_to_stop: called when it wants the service to end in order.

    Attributes:
        host: its address.
        said: the last message of each kind.
        problem: why the service has to end.
        over: whether it has said that it ends.
    """

    def __init__(self, connection: Link, name: str, silence: float, asks_to_stop: Callable[[], None]) -> None:
        self.name = name
        self.host = connection.other
        self.said: dict[str, Message] = {}
        self.problem: str | None = None
        self.over = False
        self._link = connection
        self._silence = silence
        self._asks_to_stop = asks_to_stop
        self._closed = threading.Event()
        self._hearing = threading.Thread(target=self._hear, name="hear", daemon=True)
        self._hearing.start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def say(self, kind: str, **content: object) -> None:
        """Tell it. Where that does not work, its silence will be noticed."""
        try:
            self._link.say(kind, **content)
        except OSError as error:
            logger.debug("%s cannot be told: %s", self.name, error)

    def close(self, seconds: float) -> None:
        """Hang up when it has, or after some seconds: it is to read what it was told."""
        self._hearing.join(seconds)
        self._closed.set()
        self._link.close()

    def _beat(self) -> None:
        while not self._closed.wait(min(_BEAT, self._silence / 5)):
            self.say("here")

    def _hear(self) -> None:
        try:
            while True:
                self._take(self._link.hear())
        except TimeoutError:
            self._lost(f"has not answered for {self._silence:g} s")
        except EOFError:
            self._lost("has hung up without a word: its launcher was killed, or its machine")
        except (OSError, UntrustedError) as error:
            self._lost(f"is out of reach: {error or 'somebody else speaks in its place'}")

    def _take(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "over" and message["reason"] is not None:
            self.problem = f"{self.name}: {message['reason']}"
        self.said[kind] = message
        self.over = self.over or kind == "over"
        if kind in ("stop", "over") and self.problem is None:
            self._asks_to_stop()

    def _lost(self, how: str) -> None:
        if not (self.over or self._closed.is_set()):
            self.problem = f"{self.name} {how}"
