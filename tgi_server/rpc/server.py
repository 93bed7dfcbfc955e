"""The shard's side: a gRPC server whose threads only move messages, and the loop that works on them.

`serve` runs the steps on the thread that calls it, so that the device never waits for the network: the next plan is
decoded and the last outcome is sent while a step runs.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

import grpc

from tgi_server.errors import ConfigError
from tgi_server.rpc.codec import INFO, OUTCOME, PLAN, SERVICE, UNLIMITED
from tgi_server.rpc.watch import LOOK, StepWatch
from tgi_server.telemetry import signs
from tgi_server.types import Outcome, Plan, ShardInfo

log = logging.getLogger(__name__)

LONGEST_SOCKET_PATH = 107
"""Bytes; what the kernel takes."""

HANDOVER = 2.0
"""Seconds that a router may wait for the one before it to be gone; its last steps are waited for in any case."""
_LOOK = 0.1
"""Seconds between two looks at whether it is."""

Step = Callable[[Plan], Outcome]
_Item = tuple["_Router", "Plan | Exception | _Stop"]


class _Stop:
    """Put into the queues to end those who wait there."""


STOP = _Stop()


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
    socket_path: str, info: ShardInfo, step: Step, reset: Callable[[], None], rank: int, watched: bool = False
) -> None:
    """Serve routers, one at a time, on the unix socket `socket_path` until SIGTERM; to be called on the main thread.

    The socket appears, with mode 0600, once requests can be answered, and is removed at the end. After each router
    `reset` is called, which forgets its sequences. Who is `watched` gives signs of life. Raises what `step` raises,
    ConfigError when the path cannot be used.
    """
    shard = _Shard(info, rank)
    server = grpc.server(ThreadPoolExecutor(max_workers=4, thread_name_prefix="rpc"), options=UNLIMITED)
    server.add_generic_rpc_handlers((shard.handler(),))
    alive = signs.of_a_thread(shard.watch.problem) if watched else nullcontext()
    with _stopped_by_signals(shard), alive, _listening(server, socket_path):
        try:
            shard.run(step, reset)
        finally:
            shard.router.outcomes.put(STOP)
            server.stop(grace=0).wait()


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
