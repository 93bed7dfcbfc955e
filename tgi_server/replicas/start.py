"""The launcher's side of `job=ray`: what is refused, and the process that all requests come by."""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Mapping
from importlib.util import find_spec

from tgi_server.config import describe, load
from tgi_server.config.schema import Launch, Resolved, ServerConfig
from tgi_server.errors import ConfigError, TgiError, UsageError
from tgi_server.jobs.base import Stop, Task
from tgi_server.launcher import check as launcher
from tgi_server.launcher.prepare import accelerators
from tgi_server.launcher.process import HUB_TOKENS, Children, environment
from tgi_server.replicas import plan
from tgi_server.replicas.options import RayOptions
from tgi_server.telemetry import logging as log_setup

MISSING = "job=ray: Ray Serve is not installed; pip install 'tgi-server[ray]'"
_COMMAND = (sys.executable, "-m", "tgi_server.replicas.main")
_MARGIN = 30.0
"""Seconds beyond twice `shutdown_timeout`, of the front's requests and of the replicas' own, until all is killed."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",  # seconds, so that a load is noticed soon
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
}
_OWN = {"RAY_memory_monitor_refresh_ms": "0"}  # the server plans its memory itself: nothing is killed to make room

logger = logging.getLogger(__name__)


class ReplicasFailedError(TgiError):
    """The process that all requests come by ended though nobody asked it to."""


def check(options: RayOptions, config: ServerConfig, origins: Mapping[str, str]) -> None:
    """Raise UsageError or ConfigError where options cannot go together, ConfigError where Ray is not installed."""
    plan.check(options)
    if config.sharded and config.num_shard is None:
        raise UsageError("sharded=true: a replica does not take all GPUs; set num_shard", ["sharded"])
    for name in ("ngrok", "record_traffic"):
        if getattr(config, name):
            raise UsageError(f"{name}: cannot be used with job=ray, where several processes would do it", [name])
    if options.ray_address is None:  # else other machines decide
        launcher.options(config, origins, accelerators())
    if find_spec("ray") is None:
        raise ConfigError(MISSING)


def run(options: RayOptions, task: Task, stop: Stop) -> None:
    """Run the replicas until told to stop. Raises what `check` raises; ReplicasFailedError."""
    config, origins = task.run.config, task.run.origins
    check(options, config, origins)
    log_setup.setup(config, "launcher")
    for warning in [*task.arguments.warnings, *task.arguments.suspects]:
        logger.warning(warning)
    logger.info("options that differ from their defaults: %s", ", ".join(describe.changed(config, origins)))
    with Children() as children:
        front = children.start("front", _COMMAND, load.dump(Launch(config, Resolved())), _variables(options))
        while front.alive and not stop.requested:
            children.poll()
        if front.alive:
            logger.info("stopping: running requests have %g s to finish", config.shutdown_timeout)
        asked = stop.requested
        children.stop([front], 2 * config.shutdown_timeout + _MARGIN, lambda: stop.hurried)
        children.hear_out(front, 0.5)
        if not (asked or front.succeeded) or front.error:
            logger.debug("the last words of the front:\n%s", front.last_words)
            raise ReplicasFailedError(front.error or f"the front {front.ending()}")


def _variables(options: RayOptions) -> Mapping[str, str]:
    """Additions to the environment, which replicas on this machine inherit.

    Ray would run whatever is sent to its ports: to those of our own only who knows a token may send anything.
    """
    known = environment()
    tokens = {name: known[name] for name in HUB_TOKENS if name in known}
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **_OWN}
    return {**_QUIET, **tokens, **({} if options.ray_address else own)}
