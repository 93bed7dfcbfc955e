"""The life of a server: shards, then the router, then watching, then an orderly end."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tgi_server.cache import lengths
from tgi_server.config import load
from tgi_server.config.schema import Launch, Resolved, ServerConfig, without_secrets
from tgi_server.errors import TgiError
from tgi_server.host import usable_cores
from tgi_server.launcher import sockets
from tgi_server.launcher.hung import LEAVING_SILENCE, Watch
from tgi_server.launcher.leftovers import Leftovers
from tgi_server.launcher.nodes.alone import Alone
from tgi_server.launcher.process import Child, Children, environment, for_tracing
from tgi_server.launcher.progress import Progress
from tgi_server.placement import local_ranks
from tgi_server.telemetry.logging import Lines
from tgi_server.types import UNSETTLED

_REMINDER = 10.0
"""Seconds between two lines that say what is still waited for."""
_GRACE = 10.0
"""Seconds that children have to stop when nothing is left to finish."""
_LAST_WORDS = 3.0
"""Seconds that a router has to answer its requests when a shard has failed."""
_STACKS = 0.6
"""Seconds that a child that hangs has to show where."""
_MARGIN = 5.0
"""Seconds beyond `shutdown_timeout` after which a draining router is killed."""
_IN_ORDER = (None, 0, -signal.SIGTERM, UNSETTLED)
"""How a router that was told to stop may have ended; with SIGTERM before it knew what to do about it."""
_LOADING = "Loading the model"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Programs:
    """The commands of the child processes."""

    shard: Sequence[str] = (sys.executable, "-m", "tgi_server.shard.main")
    router: Sequence[str] = (sys.executable, "-m", "tgi_server.router.main")


class ChildFailedError(TgiError):
    """A child process ended that should not have.

    Attributes:
        last_words: the last lines that it wrote.
    """

    def __init__(self, message: str, last_words: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.last_words = last_words


class StoppedError(Exception):
    """The operator stopped the server before it served."""


class StopSignals:
    """Counts SIGTERM, SIGINT and SIGHUP: the first asks for an orderly end, the next ones hasten it."""

    def __init__(self) -> None:
        self._count = 0
        self._pretended = False

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
        return self._count > 0 or self._pretended

    @property
    def hurried(self) -> bool:
        """Whether it is to stop at once."""
        return self._count > 1

    @contextmanager
    def pretended(self) -> Iterator[None]:
        """Look as after a first signal: for work that only ends when it is told to stop, and whose server is gone."""
        self._pretended = True
        try:
            yield
        finally:
            self._pretended = False

    def check(self) -> None:
        """Raise StoppedError when the server is to stop."""
        if self.requested:
            raise StoppedError


class Server:
    """Shards, and a router at them, from the first start to the last socket removed.

    Leaving the context stops all; then no child runs and no socket is left.

    Args:
        stop: the signals that arrive.
        nodes: those of other machines.
    """

    def __init__(self, programs: Programs, stop: StopSignals, nodes: Alone | None = None) -> None:
        self._programs = programs
        self._stop = stop
        self._nodes = nodes or Alone(stop)
        self._children = Children()
        self._shards: list[Child] = []
        self._router: Child | None = None
        self._paths: list[Path] = []
        self._leftovers: Leftovers | None = None
        self._watch = Watch()
        self._failed = False

    def __enter__(self) -> Server:
        self._children.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        router = [self._router] if self._router else []
        try:
            self._children.stop(router, _LAST_WORDS if self._failed else _GRACE, self._hurried)
            self._children.stop(self._shards, 0 if self._failed else _GRACE, self._hurried)
            sockets.remove(self._paths)
        finally:
            self._children.__exit__(*exception)
            if self._leftovers is not None:
                self._leftovers.close()

    def start_shards(self, config: ServerConfig, resolved: Resolved, bar: bool = True) -> dict[str, int]:
        """Until all answer, those of other nodes, too; with a bar on a terminal.

        Raises ChildFailedError when one ends, StoppedError.

        Returns:
            The options that they have found numbers for.
        """
        ranks = local_ranks(config, resolved.num_shard)
        self._paths = sockets.shard_paths(config, ranks)
        self._leftovers = Leftovers(sockets.files(self._paths))
        for rank in ranks:
            self._shards.append(self._start_shard(config, resolved, rank))
        self._await_sockets(ranks, bar)
        self._children.poll()  # of what they said just before they answered
        self._nodes.serving()
        self.watch(lambda: self._nodes.ready or self._stop.requested)
        self._stop.check()
        settled = self._shards[0].settled
        if lengths.is_open(config) and not (settled or config.node_rank):
            raise ChildFailedError("the shards have not said which lengths fit")
        return settled

    def start_router(self, config: ServerConfig, resolved: Resolved, listener: socket.socket) -> None:
        """Start one at the running shards, which have none.

        Args:
            resolved: what the launcher found out; its `listen_fd` and `shard_pids` are set here.
            listener: bound to the server's address.
        """
        number = listener.fileno()
        pids = [shard.pid for shard in self._shards]
        config = replace(config, node_token=None)  # which only launchers need
        text = load.dump(Launch(config, replace(resolved, listen_fd=number, shard_pids=pids, watched=True)))
        self._router = self._children.start("router", self._programs.router, text, for_tracing(), [number])

    def start_instead(
        self, command: Sequence[str], config: ServerConfig, resolved: Resolved, take: Callable[[bytes], None]
    ) -> None:
        """Start another program in the router's place, of which `take` gets the lines of its standard output."""
        text = load.dump(Launch(config, resolved))
        self._router = self._children.start("probe", command, text, {}, take=take)

    def stop_router(self, grace: float = _GRACE) -> bool:
        """Have the router leave the shards, if there is one; a shard that dies meanwhile is a failure.

        Returns:
            Whether another one may come. Several shards wait for each other in every step, and a router that did not
            leave in order may have told some of them less than others.
        """
        router, self._router = self._router, None
        if router is None:
            return True
        self._children.stop([router], grace, self._hurried)
        self._children.drop(router)
        logger.info("the %s %s", router.name, router.ending())
        if failed := self._children.ended():
            raise self._failure(failed[0])
        return router.succeeded or len(self._shards) == 1

    def let_end(self) -> None:
        """Give what is in the router's place, and has nothing left to do, time to end by itself."""
        deadline = time.monotonic() + _GRACE
        while self._router and self._router.alive and time.monotonic() < deadline and not self._hurried():
            self._children.poll()

    def ended(self) -> str | None:
        """The name of a process that has ended though nobody asked it to."""
        ended = self._children.ended()
        return ended[0].name if ended else None

    def watch(self, over: Callable[[], bool], may_end: bool = False) -> None:
        """Pass on what the children write until `over`. Raises ChildFailedError when one of them has ended.

        Args:
            may_end: whether what is in the router's place may have ended by then.
        """
        while not over():
            self._step(over if may_end else lambda: False)

    def drain(self, config: ServerConfig) -> None:
        """Let the router finish its requests, and end. Raises ChildFailedError when a child fails or hangs.

        A router that has finished them and does not end is killed, which is no failure.
        """
        logger.info("stopping: running requests have %g s to finish", config.shutdown_timeout)
        deadline = time.monotonic() + config.shutdown_timeout + _MARGIN
        far = deadline + _GRACE
        self.watch(lambda: self._nodes.may_leave() or time.monotonic() > far or self._hurried())
        if (router := self._router) is not None:
            router.terminate()
            while router.alive and time.monotonic() < deadline and not self._hurried():
                self._step(lambda: True)
                if router.signs.leaving and router.signs.last is not None:
                    deadline = min(deadline, router.signs.last + LEAVING_SILENCE)
            if router.status not in _IN_ORDER:
                raise self._failure(router)
        self.stop_router(0)

    def _hurried(self) -> bool:
        return self._stop.hurried

    def _start_shard(self, config: ServerConfig, resolved: Resolved, rank: int) -> Child:
        threads = max(1, usable_cores() // len(self._paths))
        wanted = {
            "OMP_NUM_THREADS": str(threads),  # each shard would take all cores otherwise, and wait for the others
            "GOMP_SPINCOUNT": "2000",  # spins of a waiting thread: more makes a busy machine's steps ten times slower
        }
        if resolved.num_shard > 1:
            wanted |= sockets.interfaces(config, resolved.node_hosts)
        extra = {name: value for name, value in wanted.items() if name not in environment()}
        text = load.dump(Launch(without_secrets(config), replace(resolved, watched=True)))
        return self._children.start(f"shard {rank}", [*self._programs.shard, "--rank", str(rank)], text, extra)

    def _await_sockets(self, ranks: range, bar: bool) -> None:
        started = time.monotonic()
        progress = Progress(bar=bar)
        try:
            self._await_all(ranks, progress)
        finally:
            progress.finish()
        logger.info("all shards are ready after %.1f s", time.monotonic() - started)

    def _await_all(self, own: range, progress: Progress) -> None:
        shards = self._shards
        started = reminded = time.monotonic()
        while missing := [rank for rank, path in zip(own, self._paths, strict=True) if not sockets.is_socket(path)]:
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

    def _step(self, done: Callable[[], bool] = lambda: False) -> None:
        """Pass on what the children write; raises ChildFailedError for one that has ended, but a router when `done`."""
        self._children.poll()
        for child in self._children.ended():
            self._children.hear_out(child, 0.5)
        for child in self._children.ended():
            if child is not self._router or not done():
                raise self._failure(child)
        if problem := self._nodes.problem:
            raise self._lost(problem)
        self._check_signs(done)

    def _check_signs(self, done: Callable[[], bool]) -> None:
        """Raise ChildFailedError for a child that hangs, but a router that leaves when `done`.

        It is killed, so that those who wait for it learn that.
        """
        children = [*self._shards, *([self._router] if self._router else [])]
        self._watch.look(children)
        for child in children:
            if child is self._router and child.signs.leaving and done():
                continue
            if problem := self._watch.problem(child):
                name = f"{child.name} (process {child.pid})"
                words, lines, error = child.last_words, child.last_lines, child.error  # before its stacks
                logger.error("%s hangs: %s; its last words:\n%s", name, problem, Lines(words or "(none)"))
                stacks = self._children.stacks(child, _STACKS)
                logger.error("%s: its stacks:\n%s", name, Lines("\n".join(stacks) or "(it does not show them)"))
                child.kill()
                self._failed = True
                message = (child.signs.leaving and error) or f"{name} hangs: {problem}"
                raise ChildFailedError(self._nodes.explained(message), lines)

    def _failure(self, child: Child) -> ChildFailedError:
        self._failed = True
        logger.error("%s %s; its last words:\n%s", child.name, child.ending(), Lines(child.last_words or "(none)"))
        message = child.error or f"{child.name} {child.ending()}"
        return ChildFailedError(self._nodes.explained(message), child.last_lines)

    def _lost(self, problem: str) -> ChildFailedError:
        """The end of all because of another node. The shards are killed, so that the router answers its requests."""
        self._failed = True
        logger.error("%s: so the service ends", problem)
        self._nodes.end(problem)
        for shard in self._shards:
            shard.kill()
        return ChildFailedError(problem)
