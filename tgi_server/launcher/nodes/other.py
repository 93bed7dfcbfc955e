"""The launcher of any node but node 0."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from tgi_server.errors import ConfigError
from tgi_server.launcher import sockets
from tgi_server.launcher.nodes.agreement import Facts
from tgi_server.launcher.nodes.alone import Agreed
from tgi_server.launcher.nodes.link import Link, UntrustedError
from tgi_server.launcher.nodes.peer import Peer
from tgi_server.launcher.nodes.several import GREETING, REMINDER, Several
from tgi_server.placement import local_ranks, node_port

_AGAIN = 0.5
"""Seconds between two calls of a node 0 that is not there yet."""

logger = logging.getLogger(__name__)


class Other(Several):
    """A node that only runs shards, for the router of node 0."""

    def __enter__(self) -> Other:
        config = self._config
        address, port = config.master_addr, node_port(config)
        logger.info("node %d of %d: calling node 0 on %s port %d", config.node_rank, config.num_nodes, address, port)
        self._first = self._peers[0] = self._met(address, port)
        logger.info("%s is there", self._first.name)
        return self

    def agree(self, files: Callable[[], Facts]) -> Agreed:
        """See `Alone`."""
        self._first.say("model", files=files())
        self._wait(lambda: "go" in self._first.said, lambda: "all nodes to have the model")
        go = self._first.said["go"]
        ranks = local_ranks(self._config, self._num_shard)
        sockets.check_node(self._config, go["hosts"][self._config.node_rank], len(ranks))
        return Agreed(go["hosts"], self._key(go["run"]))

    def serving(self) -> None:
        """See `Alone`."""
        self._first.say("serving")
        logger.info("the shards of this node are ready for the router of %s", self._first.name)

    def may_leave(self) -> bool:
        """See `Alone`."""
        if not (self._asked or self._first.over):
            logger.info("%s is asked to end the service", self._first.name)
            self._first.say("stop")
            self._asked = True
        return self._first.over

    def _met(self, address: str, port: int) -> Peer:
        """Call node 0 until it answers. Raises ConfigError when it does not, or turns this one away; StoppedError."""
        seconds, reminded = self._config.node_start_timeout, time.monotonic()
        while True:
            self._stop.check()
            try:
                return self._introduced(socket.create_connection((address, port), timeout=GREETING))
            except UnicodeError:
                raise ConfigError(f"master_addr={address}: not an address") from None
            except (OSError, EOFError) as error:
                if time.monotonic() - reminded >= REMINDER:
                    reminded = time.monotonic()
                    logger.info("still calling node 0 on %s port %d: %s", address, port, error or "no answer")
                if time.monotonic() - self._began > seconds:
                    place = f"node 0 ({address}, port {port})"
                    raise ConfigError(
                        f"node_start_timeout={seconds:g}: {place} was not there within this time ({error})"
                    ) from None
                time.sleep(_AGAIN)

    def _introduced(self, connection: socket.socket) -> Peer:
        caller = Link(connection, self._token, calls=True)
        try:
            caller.say("node", node=self._config.node_rank, facts=self._facts)
            caller.hear()
            answer = caller.hear()
            if answer["kind"] == "refused":
                raise ConfigError(f"node 0 ({caller.other}) does not take this node: {answer['reason']}")
        except UntrustedError:
            caller.close()
            raise ConfigError(f"node_token: node 0 ({caller.other}) has another one") from None
        except BaseException:
            caller.close()
            raise
        connection.settimeout(self._config.node_timeout)
        return Peer(caller, f"node 0 ({caller.other})", self._config.node_timeout, self._stop.request)
