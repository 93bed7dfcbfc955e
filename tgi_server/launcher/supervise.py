"""The life of a server: shards, then the router, then watching, then an orderly end."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tgi_server.config import load
from tgi_server.config.schema import Launch, Resolved, ServerConfig
from tgi_server.errors import TgiError
from tgi_server.host import usable_cores
from tgi_server.launcher import sockets
from tgi_server.launcher.process import Child, Children, environment
from tgi_server.launcher.progress import Progress

_REMINDER = 10.0
"""Seconds between two lines that say what is still waited for."""
_GRACE = 10.0
"""Seconds that children have to stop when nothing is left to finish."""
_MARGIN = 5.0
"""Seconds beyond `shutdown_timeout` after which a draining router is killed."""
_LOADING = "Loading the model"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Programs:
    """The commands of the child processes."""

    shard: Sequence[str] = (sys.executable, "-m", "tgi_server.shard.main")
    router: Sequence[str] = (sys.executable, "-m", "tgi_server.router.main")


class ChildFailedError(TgiError):
    """A child process ended that should not have."""


class StoppedError(Exception):
    """The operator stopped the server before it served."""


class StopSignals:
    """Counts SIGTERM, SIGINT and SIGHUP: the first asks for an orderly end, the next ones hasten it."""

    def __init__(self) -> None:
        self._count = 0

    def install(self) -> None:
        """Take the signals over; SIGHUP stays ignored where it is (nohup)."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._received)

    def request(self) -> None:
        """Ask for an orderly end, as a first signal would; any thread may."""
        self._count = max(self._count, 1)

    def _received(self, number: int, frame: object) -> None:
        self._count += 1

    @property
    def requested(self) -> bool:
        """Whether the server is to stop."""
        return self._count > 0

    @property
    def hurried(self) -> bool:
        """Whether it is to stop at once."""
        return self._count > 1

    def check(self) -> None:
        """Raise StoppedError when the server is to stop."""
        if self.requested:
            raise StoppedError


class Server:
    """Shards and router of one server, from the first start to the last socket removed."""

    def __init__(
        self, programs: Programs, config: ServerConfig, resolved: Resolved, listener: socket.socket, stop: StopSignals
    ) -> None:
        """Nothing is started yet.

        Args:
            resolved: what the launcher found out; its `listen_fd` is set here.
            listener: bound to the server's address.
        """
        self._programs = programs
        self._config = config
        self._resolved = resolved
        self._listener = listener
        self._stop = stop
        self._children = Children()
        self._paths = sockets.shard_paths(config, resolved.num_shard)

    def run(self) -> None:
        """Serve until told to stop; when this returns or raises, no child runs and no socket is left.

        Raises:
            ChildFailedError: a child ended by itself.
            StoppedError: told to stop before the router was started.
        """
        shards: list[Child] = []
        routers: list[Child] = []
        with self._children:
            try:
                shards += map(self._start_shard, range(self._resolved.num_shard))
                self._await_sockets(shards)
                routers += [self._start_router()]
                while not self._stop.requested:
                    self._step()
                self._drain(*routers)
            finally:
                for group in (routers, shards):
                    self._children.stop(group, _GRACE, self._hurried)
                sockets.remove(self._paths)

    def _hurried(self) -> bool:
        return self._stop.hurried

    def _start_shard(self, rank: int) -> Child:
        threads = max(1, usable_cores() // self._resolved.num_shard)
        wanted = {
            "OMP_NUM_THREADS": str(threads),  # each shard would take all cores otherwise, and wait for the others
            "GOMP_SPINCOUNT": "2000",  # spins of a waiting thread: more makes a busy machine's steps ten times slower
        }
        extra = {name: value for name, value in wanted.items() if name not in environment()}
        text = load.dump(Launch(self._config, self._resolved))
        return self._children.start(f"shard {rank}", [*self._programs.shard, "--rank", str(rank)], text, extra)

    def _start_router(self) -> Child:
        number = self._listener.fileno()
        text = load.dump(Launch(self._config, replace(self._resolved, listen_fd=number)))
        return self._children.start("router", self._programs.router, text, {}, [number])

    def _await_sockets(self, shards: Sequence[Child]) -> None:
        started = time.monotonic()
        progress = Progress(bar=not self._config.json_output)
        try:
            self._await_all(shards, progress)
        finally:
            progress.finish()
        logger.info("all shards are ready after %.1f s", time.monotonic() - started)

    def _await_all(self, shards: Sequence[Child], progress: Progress) -> None:
        started = reminded = time.monotonic()
        while missing := [rank for rank, path in enumerate(self._paths) if not sockets.is_socket(path)]:
            self._stop.check()
            self._step()
            if any(child.progress is not None for child in shards):
                progress.report(_LOADING, min(child.progress or 0.0 for child in shards))
            if time.monotonic() - reminded >= _REMINDER:
                reminded = time.monotonic()
                ranks = ", ".join(map(str, missing))
                logger.info("still waiting for shard %s to load the model (%.0f s)", ranks, reminded - started)
        if any(child.progress is not None for child in shards):
            progress.report(_LOADING, 1.0)

    def _step(self) -> None:
        """Pass on what the children write; raises ChildFailedError when one of them has ended."""
        self._children.poll()
        ended = self._children.ended()
        for child in ended:
            self._children.hear_out(child, 0.5)
        if ended:
            raise self._failure(self._children.ended()[0])

    def _failure(self, child: Child) -> ChildFailedError:
        logger.error("%s %s; its last words:\n%s", child.name, child.ending(), child.last_words or "(none)")
        return ChildFailedError(child.error or f"{child.name} {child.ending()}")

    def _drain(self, router: Child) -> None:
        """Let the router finish its requests; a shard that dies meanwhile is a failure, the router's end is none."""
        logger.info("stopping: running requests have %g s to finish", self._config.shutdown_timeout)
        self._children.stop([router], self._config.shutdown_timeout + _MARGIN, self._hurried)
        logger.info("the router %s", router.ending())
        failed = [child for child in self._children.ended() if child is not router]
        if failed:
            raise self._failure(failed[0])
