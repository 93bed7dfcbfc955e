"""The deployment on Ray Serve: what of its interface the command uses."""

from __future__ import annotations

import asyncio
import logging
import re
import warnings
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, LoggingConfig

from tgi_server.config.schema import ServerConfig
from tgi_server.errors import TgiError
from tgi_server.replicas import broadcast, plan
from tgi_server.replicas.call import Call, Head
from tgi_server.replicas.child import ReplicaFailedError
from tgi_server.replicas.connection import first_line
from tgi_server.replicas.numbers import Numbers
from tgi_server.replicas.options import RayOptions
from tgi_server.replicas.relay import LostError
from tgi_server.replicas.replica import Replica
from tgi_server.replicas.returns import Returns
from tgi_server.replicas.router import PrefixRouter

_NAME = "replicas"
_PATIENCE = 5.0
"""Seconds for what all replicas are asked for and none has to think about."""
_QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)

logger = logging.getLogger(__name__)


class DeletedError(TgiError):
    """Somebody else has ended the replicas."""


class Deployment:
    """The replicas of one configuration; see `front.Replicas`.

    Attributes:
        numbers: how many there were at the last look.

    Args:
        name: of the application, of which a cluster may have several.
        returns: where answers come back.
    """

    def __init__(self, name: str, options: RayOptions, config: ServerConfig, returns: Returns) -> None:
        self._name = name
        self._options = options
        self._config = config
        self._returns = returns
        self._handle: DeploymentHandle[Any] | None = None
        self.numbers = Numbers()

    def start(self) -> None:
        """Start the replicas, and wait for them.

        Raises:
            ConfigError: Ray was started here, and this machine has not what they need.
            ReplicaFailedError: they do not start.
        """
        resources = ray.cluster_resources()
        if not self._options.ray_address:
            plan.check_room(self._options, self._config, resources)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a period that is set by a variable here
            serve.start(proxy_location="Disabled", logging_config=_QUIET)
            made = serve.deployment(
                Replica,
                name=_NAME,
                logging_config=_QUIET,
                request_router_config=RequestRouterConfig(
                    request_router_class=PrefixRouter,
                    request_router_kwargs={
                        "prefixes": self._options.prefix_routing, "margin": self._options.prefix_margin,
                    },
                ),
                **plan.deployment(self._options, self._config, bool(resources.get("GPU"))),
            )  # fmt: skip
            application = made.bind(self._config, plan.cpus(self._options), self._returns.directory)
            try:
                handle = serve.run(application, name=self._name, route_prefix=None)
            except RuntimeError as error:
                raise ReplicaFailedError(self._reason() or first_line(error)) from error
        self._handle = handle
        self.look()

    def stop(self) -> None:
        """Drain and stop the replicas; and Serve, where it runs for them only."""
        with suppress(RayError, RayServeException, TimeoutError):  # Serve goes on by itself with what takes longer
            if self._options.ray_address:
                serve.delete(self._name)
            else:
                serve.shutdown()

    @property
    def running(self) -> int:
        """How many replicas there were at the last look."""
        return self.numbers.running

    def look(self) -> None:
        """Ask Serve how many replicas are running; where it does not answer, as many as before.

        Raises:
            DeletedError: there is no such application any more.
        """
        before = self.running
        try:
            application = serve.status().applications.get(self._name)
        except (RayError, RayServeException) as error:
            logger.warning("Ray Serve does not tell how many replicas are running: %s", first_line(error))
            return
        if application is None or application.status == ApplicationStatus.DELETING:
            raise DeletedError(f"the application {self._name} was deleted from Ray Serve")
        found = application.deployments.get(_NAME)
        self.numbers.see(found.replica_states if found else {})
        if self.running != before:
            logger.info("%d replica(s) running", self.running)

    def waits_for(self) -> str:
        """What there is of the replicas while they start, and what Serve says of that."""
        try:
            application = serve.status().applications.get(self._name)
        except (RayError, RayServeException) as error:
            return first_line(error)
        found = application.deployments.get(_NAME) if application else None
        if found is None:
            return "Ray Serve"
        states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(found.replica_states.items()) if count)
        return f"replicas ({states}) {first_line(found.message) if found.message else ''}".rstrip()

    async def send(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        """See `front.Replicas`."""
        assert self._handle is not None
        async with self._returns.expected() as (back, arriving):
            asked: Any = self._handle.remote(replace(call, back=back))
            done = asyncio.ensure_future(_result(asked))
            try:
                first: list[asyncio.Future[Any]] = [arriving, done]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                if done.done():
                    await done  # raises what is wrong
                # what is done is here, or its connection is about to be: nobody waits for it longer than that
                arrived = await asyncio.wait_for(arriving, _PATIENCE)
                done.add_done_callback(arrived.hang_up_if_failed)
                yield arrived.head
                async for piece in arrived.body():
                    yield piece
                await done
            except Exception as error:  # of Ray, or what was raised at the replica
                raise LostError(first_line(error)) from error
            finally:
                if not done.done():
                    asked.cancel()
                    done.cancel()

    def all(self, call: Call) -> AsyncGenerator[tuple[Head, bytes], None]:
        """See `front.Replicas`."""
        return self._all("whole", call)

    async def metrics(self) -> dict[str, str]:
        """See `front.Replicas`."""
        return {name: text async for name, text in self._all("metrics")}

    def lines(self) -> AsyncGenerator[tuple[str, list[str]], None]:
        """What the replicas have logged since the last call, by their names."""
        return self._all("lines")

    def _reason(self) -> str | None:
        """The last words of a replica in what Serve says of it."""
        application = serve.status().applications.get(self._name)
        deployed = application.deployments.get(_NAME) if application else None
        found = re.search(r"ReplicaFailedError: (.+)", deployed.message if deployed else "")
        return found[1] if found else None

    async def _all(self, method: str, *arguments: Call) -> AsyncGenerator[Any, None]:
        """What those replicas answer that do, as it comes."""
        assert self._handle is not None
        try:
            # what is public of this answer has all of the replicas' answers, or none
            asking = self._handle.broadcast(method, *arguments)._fetch_replica_results_async()
            async with aclosing(broadcast.answers(asking, _PATIENCE)) as said:
                async for each in said:
                    yield each
        except (RayError, RayServeException, TimeoutError):
            return


async def _result(asked: Any) -> None:
    await asked
