"""The launcher of node 0."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from tgi_server.errors import ConfigError, ModelError
from tgi_server.launcher import sockets
from tgi_server.launcher.nodes.agreement import Facts, differences
from tgi_server.launcher.nodes.alone import Agreed
from tgi_server.launcher.nodes.link import Link, Message, UntrustedError
from tgi_server.launcher.nodes.peer import Peer
from tgi_server.launcher.nodes.several import GREETING, Several
from tgi_server.placement import local_ranks, node_port

_GREETED = 32
"""Callers that are listened to at a time; each may take `GREETING` seconds."""
_AGAIN = 1.0
"""Seconds until it is tried again to let somebody in, when that has failed."""

logger = logging.getLogger(__name__)


class First(Several):
    """Node 0, which has the router: the others come to it."""

    def __enter__(self) -> First:
        port, nodes = node_port(self._config), self._config.num_nodes
        self._listener = sockets.listen(self._config.master_addr, port)
        self._host: str = self._listener.getsockname()[0]
        self._closed = False
        self._rooms = threading.Semaphore(_GREETED)
        self._greeting = threading.Lock()
        logger.info("node 0 of %d: the others are to come to %s port %d", nodes, self._host, port)
        threading.Thread(target=self._accept, name="accept", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        super().__exit__(kind, error, trace)

    @property
    def _missing(self) -> list[int]:
        return [node for node in range(1, self._config.num_nodes) if node not in self._peers]

    @property
    def ready(self) -> bool:
        """See `Alone`."""
        return all("serving" in peer.said for peer in self._all)

    def agree(self, files: Callable[[], Facts]) -> Agreed:
        """See `Alone`."""
        self._wait(self._complete, lambda: f"node {', '.join(map(str, self._missing))} to come")
        self._close()
        self._wait(lambda: not self._without_model(), lambda: f"{', '.join(self._without_model())} to have the model")
        own = files()
        for node, peer in sorted(self._peers.items()):
            if found := differences(own, peer.said["model"]["files"], node):
                raise ModelError(f"the nodes have different models: {found}")
        hosts, run = [self._host, *(peer.host for peer in self._all)], secrets.token_hex(32)
        for peer in self._all:
            peer.say("go", hosts=hosts, run=run)
        return Agreed(hosts, self._key(run))

    def _complete(self) -> bool:
        missing, seconds = self._missing, self._config.node_start_timeout
        if missing and time.monotonic() - self._began > seconds:
            nodes = ", ".join(map(str, missing))
            raise ConfigError(f"node_start_timeout={seconds:g}: node {nodes} has not come within this time")
        return not missing

    def _without_model(self) -> list[str]:
        return [peer.name for peer in self._all if "model" not in peer.said]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._closed:
                    return
                logger.warning("nobody can be let in: %s", error)
                time.sleep(_AGAIN)
                continue
            threading.Thread(target=self._greet, args=(connection,), name="greet", daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        """Take a caller for a node, or turn it away, at once or after `GREETING` seconds."""
        if not self._rooms.acquire(blocking=False):
            connection.close()
            return
        late = threading.Timer(GREETING, _hang_up, (connection,))
        late.daemon = True
        late.start()
        try:
            self._meet(connection)
        finally:
            late.cancel()
            self._rooms.release()

    def _meet(self, connection: socket.socket) -> None:
        connection.settimeout(GREETING)
        try:
            caller = Link(connection, self._token, calls=False)
        except (OSError, EOFError):
            return
        try:
            caller.say("node 0")
            message = caller.hear()
            connection.settimeout(self._config.node_timeout)
            with self._greeting:
                if self._welcomed(caller, message):
                    return
        except UntrustedError:
            logger.warning("%s was turned away: it has another node_token", caller.other)
        except (OSError, EOFError):
            logger.debug("%s has called, and said nothing", caller.other)
        caller.close()

    def _welcomed(self, caller: Link, message: Message) -> bool:
        node = message["node"]
        reason = differences(self._facts, message["facts"], node)
        if reason is None and node in self._peers:
            reason = f"node_rank={node} is there already ({self._peers[node].host})"
        if reason is not None:
            logger.warning("node %d (%s) was turned away: %s", node, caller.other, reason)
            caller.say("refused", reason=reason)
            return False
        name = f"node {node} ({caller.other}, {self._shards(node)})"
        logger.info("%s has come", name)
        caller.say("welcome")

        def stop() -> None:
            if not self._stop.requested:
                logger.info("%s is to stop, so the whole service is", name)
                self._stop.request()

        peer = self._peers[node] = Peer(caller, name, self._config.node_timeout, stop)
        if self._over:  # it came while all others were told
            peer.say("over", reason=self._reason)
        return True

    def _shards(self, node: int) -> str:
        ranks = local_ranks(replace(self._config, node_rank=node), self._num_shard)
        return f"shard {ranks[0]}" if len(ranks) == 1 else f"shards {ranks[0]} to {ranks[-1]}"

    def _close(self) -> None:
        """Expect nobody else."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
