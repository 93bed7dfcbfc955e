"""The shard's side: a gRPC server whose threads only move messages, and the loop that works on them.

`serve` runs the steps on the thread that calls it, so that the device never waits for the network: the next plan is
decoded and the last outcome is sent while a step runs.
"""

from __future__ import annotations

import hmac
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

import grpc

from tgi_server.errors import ConfigError
from tgi_server.rpc.codec import INFO, KEY, OUTCOME, PLAN, SERVICE, UNLIMITED
from tgi_server.rpc.watch import LOOK, StepWatch
from tgi_server.telemetry import signs
from tgi_server.types import Outcome, Plan, ShardInfo

log = logging.getLogger(__name__)

LONGEST_SOCKET_PATH = 107
"""Bytes; what the kernel takes."""

REMOTE_OPTIONS = [
    *UNLIMITED,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),  # what a router of another node says that it lives
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),  # a port that is taken is to be noticed
]
"""Those of shards that a router of another node calls."""

HANDOVER = 2.0
"""Seconds that a router may wait for the one before it to be gone; its last steps are waited for in any case."""
_LOOK = 0.1
"""Seconds between two looks at whether it is."""

Step = Callable[[Plan], Outcome]
_Item = tuple["_Router", "Plan | Exception | _Stop"]


class _Stop:
    """Put into the queues to end those who wait there."""


STOP = _Stop()


@dataclass(frozen=True)
class Remote:
    """Where a router of another node calls a shard.

    Attributes:
        address: `host:port`.
        key: what it has to show.
    """

    address: str
    key: str


class _Shown(grpc.ServerInterceptor):  # type: ignore[misc]  # gRPC has no types
    """Refuses calls from other machines without the key; who can open the unix socket needs none."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See grpc.ServerInterceptor."""
        handler = continuation(details)
        shown = "".join(value for name, value in details.invocation_metadata or () if name == KEY)
        if handler is None or hmac.compare_digest(shown.encode(), self._key):
            return handler
        return _local_only(handler)


def _local_only(handler: Any) -> Any:
    """The same for those who call by the unix socket; others are turned away."""
    name = "unary_unary" if handler.unary_unary else "stream_stream"
    work = getattr(handler, name)

    def guarded(request: Any, context: grpc.ServicerContext) -> Any:
        if not context.peer().startswith("unix:"):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this shard serves the router of its own service only")
        return work(request, context)

    return getattr(grpc, f"{name}_rpc_method_handler")(guarded)


class _Router:
    """One stream of plans, and its outcomes."""

    def __init__(self) -> None:
        self.outcomes: SimpleQueue[Outcome | _Stop] = SimpleQueue()
        self.gone = threading.Event()

    def leave(self) -> None:
        """Its stream is over: nobody reads its outcomes any more."""
        self.gone.set()
        self.outcomes.put(STOP)


class _Shard:
    """The handlers. They serve one router at a time: sequences of a second one would mix with the first's."""

    def __init__(self, info: ShardInfo, rank: int) -> None:
        self.plans: SimpleQueue[_Item | _Stop] = SimpleQueue()
        self.watch = StepWatch(info.device_type)
        self.router = _Router()
        self.stopping = threading.Event()
        self._info = INFO.encode(info)
        self._sends = rank == 0
        self._taken = threading.Lock()

    def handler(self) -> Any:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Info": grpc.unary_unary_rpc_method_handler(lambda request, context: self._info),
                "Health": grpc.unary_unary_rpc_method_handler(self._health),
                "Steps": grpc.stream_stream_rpc_method_handler(self._steps),
            },
        )

    def run(self, step: Step, reset: Callable[[], None]) -> None:
        """Work on plans as they come, until `stop`. Raises what `step` raises.

        When a router has left, and its plans are worked on, the next one may come.
        """
        ready: int | None = None  # when the step before was done
        while True:
            item = self._next()
            if isinstance(item, _Stop) or self.stopping.is_set():
                return
            router, plan = item
            if isinstance(plan, Exception):
                raise plan
            if isinstance(plan, _Stop):
                with self.watch.step():
                    reset()
                ready = None
                self._taken.release()
                continue
            wait = 0 if ready is None else time.perf_counter_ns() - ready
            try:
                with self.watch.step():
                    outcome = step(plan)
            except Exception:
                if self.stopping.is_set():  # the other ranks may have left in the middle of a step
                    return
                raise
            ready = time.perf_counter_ns()
            if self._sends:
                router.outcomes.put(replace(outcome, wait_ns=wait))

    def stop(self) -> None:
        """Let `run` return after the step it works on. May be called by a signal handler."""
        self.stopping.set()
        self.plans.put(STOP)

    def _next(self) -> _Item | _Stop:
        while True:
            self.watch.look()
            with suppress(Empty):
                return self.plans.get(timeout=LOOK)

    def _health(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if problem := self.watch.problem():
            context.abort(grpc.StatusCode.UNAVAILABLE, problem)
        return b""

    def _steps(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        if not self._take(context):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this shard serves another router")
        router = self.router = _Router()
        if not context.add_callback(router.leave):
            router.leave()  # it did not wait
        threading.Thread(target=self._read, args=(router, requests), name="plans", daemon=True).start()
        while not isinstance(outcome := router.outcomes.get(), _Stop):
            yield OUTCOME.encode(outcome)

    def _take(self, context: grpc.ServicerContext) -> bool:
        """Wait until the router before has left and its plans are worked on; False while it stays."""
        deadline = time.monotonic() + HANDOVER
        while not self._taken.acquire(timeout=_LOOK):
            if not context.is_active() or (time.monotonic() > deadline and not self.router.gone.is_set()):
                return False
        return True

    def _read(self, router: _Router, requests: Iterator[bytes]) -> None:
        try:
            for data in requests:
                self.plans.put((router, PLAN.decode(data)))
        except grpc.RpcError:
            log.info("the router closed its stream")
        except Exception as error:
            self.plans.put((router, error))
        self.plans.put((router, STOP))


def serve(
    socket_path: str, info: ShardInfo, step: Step, reset: Callable[[], None], rank: int, watched: bool = False,
    remote: Remote | None = None,
) -> None:  # fmt: skip
    """Serve routers, one at a time, on the unix socket `socket_path` until SIGTERM; to be called on the main thread.

    The socket appears, with mode 0600, once requests can be answered, and is removed at the end. After each router
    `reset` is called, which forgets its sequences. Who is `watched` gives signs of life. Where there is a `remote`
    address, routers of other nodes are served there, too. Raises what `step` raises, ConfigError when path or address
    cannot be used.
    """
    shard = _Shard(info, rank)
    server = grpc.server(
        ThreadPoolExecutor(max_workers=4, thread_name_prefix="rpc"),
        options=UNLIMITED if remote is None else REMOTE_OPTIONS,
        interceptors=() if remote is None else (_Shown(remote.key),),
    )
    server.add_generic_rpc_handlers((shard.handler(),))
    if remote is not None:
        _listen_at(server, remote.address)
    alive = signs.of_a_thread(shard.watch.problem) if watched else nullcontext()
    with _stopped_by_signals(shard), alive, _listening(server, socket_path):
        try:
            shard.run(step, reset)
        finally:
            shard.router.outcomes.put(STOP)
            server.stop(grace=0).wait()


def _listen_at(server: grpc.Server, address: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(f"node_port: this shard cannot listen on {address}, which another program may use") from error


@contextmanager
def _stopped_by_signals(shard: _Shard) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        shard.stop()

    previous: Any = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _listening(server: grpc.Server, path: str) -> Iterator[None]:
    """Start `server` under a temporary name; only a server that answers gets the final one."""
    temporary, directory = f"{path}.new", Path(path).parent
    if len(os.fsencode(temporary)) > LONGEST_SOCKET_PATH:
        raise ConfigError(f"shard_uds_path: {path} is longer than a socket's path may be ({LONGEST_SOCKET_PATH} bytes)")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(f"shard_uds_path: {directory} is not a directory that this user can write to")
    umask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{temporary}")
    except RuntimeError as error:
        raise ConfigError(f"shard_uds_path: cannot listen on {path}: {error}") from error
    finally:
        os.umask(umask)
    server.start()
    Path(temporary).replace(path)
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)
