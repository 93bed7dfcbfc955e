"""The launchers of a model that is spread over several machines: they meet, agree, and end together.

Each of the others keeps one connection to the launcher of node 0 (`link`), from its start to its end. Over it they
compare what they were told to do before anything is loaded, wait for each other, say every moment that they are there,
and why they end. So a node that is lost is known within `node_timeout`, whatever shards and router wait for meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType

from tgi_server.config.schema import ServerConfig
from tgi_server.errors import TgiError
from tgi_server.launcher.nodes import link
from tgi_server.launcher.nodes.agreement import Facts
from tgi_server.launcher.nodes.alone import Alone
from tgi_server.launcher.nodes.peer import Peer
from tgi_server.launcher.supervise import ChildFailedError, StoppedError, StopSignals

GREETING = 5.0
"""Seconds that each side has to show who it is."""
_LOOK = 0.05
"""Seconds between two looks at what others have said."""
REMINDER = 10.0
"""Seconds between two lines that say who is still waited for."""
_EXPLANATION = 1.0
"""Seconds that other nodes have to say what they know of a failure here."""
_FAREWELL = 1.0
"""Seconds that others have to read that all is over."""

logger = logging.getLogger(__name__)


class Several(Alone):
    """What node 0 and the others have in common.

    Args:
        config: has been checked.
        num_shard: ranks of all nodes.
        facts: what has to be equal on all of them.
        stop: is asked, and told when another node wants an end in order.
    """

    def __init__(self, config: ServerConfig, num_shard: int, facts: Facts, stop: StopSignals) -> None:
        super().__init__(stop)
        self._config = config
        self._num_shard = num_shard
        self._facts = facts
        self._began = time.monotonic()
        self._over = False
        self._reason: str | None = None
        self._token = link.token(config)
        self._asked = False
        self._peers: dict[int, Peer] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(self.problem if error is None or isinstance(error, StoppedError) else _words(error))
        for peer in self._all:
            peer.close(_FAREWELL)

    @property
    def _all(self) -> list[Peer]:
        return [peer for _, peer in sorted(self._peers.items())]

    @property
    def problem(self) -> str | None:
        """See `Alone`."""
        return next((peer.problem for peer in self._all if peer.problem), None)

    def check(self) -> None:
        """See `Alone`."""
        super().check()
        if self.problem:
            raise ChildFailedError(self.problem)

    def end(self, reason: str | None) -> None:
        """See `Alone`."""
        if not self._over:
            self._over, self._reason = True, reason
            for peer in self._all:
                known = peer.over and reason == peer.problem  # its own words
                peer.say("over", reason=None if known else reason)

    def explained(self, failure: str) -> str:
        """See `Alone`."""
        self.end(failure)
        deadline = time.monotonic() + _EXPLANATION
        while not (self.problem or all(peer.over for peer in self._all)) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        return f"{failure}; {self.problem}" if self.problem else failure

    def _wait(self, done: Callable[[], bool], what: Callable[[], str]) -> None:
        """Until `done`. Raises ChildFailedError when another node is lost or fails, StoppedError."""
        reminded = time.monotonic()
        while not done():
            self.check()
            if time.monotonic() - reminded >= REMINDER:
                reminded = time.monotonic()
                logger.info("still waiting for %s (%.0f s)", what(), reminded - self._began)
            time.sleep(_LOOK)

    def _key(self, run: str) -> str:
        """What routers show to shards, for one run of the service."""
        return link.signed(self._token, f"calls {run}")


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, TgiError) else f"{type(error).__name__}: {error}"
