"""Ray itself, and the deployment on it: what of Ray's interface the command uses."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from tgi_server.config.schema import ServerConfig
from tgi_server.errors import ConfigError
from tgi_server.replicas import plan
from tgi_server.replicas.call import Call, Head
from tgi_server.replicas.child import ReplicaFailedError
from tgi_server.replicas.front import LostError
from tgi_server.replicas.options import RayOptions
from tgi_server.replicas.replica import Replica
from tgi_server.replicas.router import PrefixRouter

_OBJECTS = 100 << 20
"""Bytes of Ray's object store on this machine, where only what is larger than 100 KB is put."""
_LOOPBACK = "127.0.0.1"
_PATIENCE = 5.0
"""Seconds for what all replicas are asked for and none has to think about."""
_QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)

logger = logging.getLogger(__name__)


@contextmanager
def connected(options: RayOptions) -> Iterator[None]:
    """Ray on this machine until this ends, or the cluster that is there. Raises ConfigError where there is none."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.setLogRecordFactory(logging.LogRecord)  # Ray's adds a field to all lines
    local: dict[str, Any] = {
        "num_cpus": plan.cpus(options) * plan.most(options),
        "object_store_memory": _OBJECTS,
        "include_dashboard": False,
        "_node_ip_address": _LOOPBACK,
    }
    try:
        ray.init(
            address=options.ray_address or "local",
            configure_logging=False,
            log_to_driver=False,
            **({} if options.ray_address else local),
        )
    except (ConnectionError, RayError, OSError, ValueError) as error:
        where = f"ray_address={options.ray_address}" if options.ray_address else "Ray does not start on this machine"
        raise ConfigError(f"{where}: {_first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


class Deployment:
    """The replicas of one configuration; see `front.Replicas`.

    Args:
        name: of the application, of which a cluster may have several.
    """

    def __init__(self, name: str, options: RayOptions, config: ServerConfig) -> None:
        self._name = name
        self._options = options
        self._config = config
        self._handle: DeploymentHandle[Any] | None = None
        self._running = 0

    def start(self) -> None:
        """Start the replicas, and wait for them. Raises ReplicaFailedError where they do not start."""
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a period that is set by a variable here
            serve.start(proxy_location="Disabled", logging_config=_QUIET)
            made = serve.deployment(
                Replica,
                name="replicas",
                logging_config=_QUIET,
                request_router_config=RequestRouterConfig(
                    request_router_class=PrefixRouter,
                    request_router_kwargs={
                        "prefixes": self._options.prefix_routing, "margin": self._options.prefix_margin,
                    },
                ),
                **plan.deployment(self._options, self._config, bool(ray.cluster_resources().get("GPU"))),
            )  # fmt: skip
            application = made.bind(self._config, plan.cpus(self._options))
            try:
                handle = serve.run(application, name=self._name, route_prefix=None)
            except RuntimeError as error:
                raise ReplicaFailedError(self._reason() or _first_line(error)) from error
        self._handle = handle.options(stream=True)
        self.look()

    def stop(self) -> None:
        """Drain and stop the replicas; and Serve, where it runs for them only."""
        with suppress(RayError, RayServeException):
            if self._options.ray_address:
                serve.delete(self._name)
            else:
                serve.shutdown()

    @property
    def running(self) -> int:
        """How many replicas there were at the last look."""
        return self._running

    def look(self) -> None:
        """Ask Serve how many replicas are running; where it does not answer, as many as before."""
        try:
            application = serve.status().applications.get(self._name)
        except (RayError, RayServeException) as error:
            logger.warning("Ray Serve does not tell how many replicas are running: %s", _first_line(error))
            return
        states = application.deployments["replicas"].replica_states if application else {}
        now = states.get("RUNNING", 0)
        if now != self._running:
            logger.info("%d replica(s) running", now)
        self._running = now

    async def send(self, call: Call) -> AsyncIterator[Head | bytes]:
        """See `front.Replicas`."""
        assert self._handle is not None
        answer: Any = self._handle.remote(call)
        over = False
        try:
            async for piece in answer:
                yield piece
            over = True
        except Exception as error:  # of Ray, or what was raised at the replica
            over = True
            raise LostError(_first_line(error)) from error
        finally:
            if not over:
                answer.cancel()

    async def all(self, call: Call) -> list[tuple[Head, bytes]]:
        """See `front.Replicas`."""
        return await self._all("whole", call)

    async def metrics(self) -> dict[str, str]:
        """See `front.Replicas`."""
        return dict(await self._all("metrics"))

    async def lines(self) -> list[tuple[str, list[str]]]:
        """What the replicas have logged since the last call, by their names."""
        return await self._all("lines")

    def _reason(self) -> str | None:
        """The last words of a replica in what Serve says of it."""
        application = serve.status().applications.get(self._name)
        message = application.deployments["replicas"].message if application else ""
        found = re.search(r"ReplicaFailedError: (.+)", message)
        return found[1] if found else None

    async def _all(self, method: str, *arguments: Call) -> list[Any]:
        """What those replicas answer that do."""
        assert self._handle is not None
        try:
            asked = self._handle.broadcast(method, *arguments)
            said = await asked.results_async(timeout_s=_PATIENCE, return_exceptions=True)
        except (RayError, RayServeException, TimeoutError):
            return []
        return [each for each in said if not isinstance(each, BaseException)]


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
