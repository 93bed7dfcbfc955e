"""What Ray Serve is asked for: how many replicas, with which resources. No Ray in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tgi_server.config.schema import ServerConfig
from tgi_server.errors import ConfigError, UsageError
from tgi_server.host import usable_cores
from tgi_server.replicas.options import RayOptions

DEFAULT_REPLICAS = 2
ROOM = 64
"""Requests beyond `max_concurrent_requests` that Serve passes on to a replica, so that it is the replica that refuses
them (429), and those that generate nothing always get through."""
HEALTH_PERIOD = 2.0
"""Seconds between two looks at whether a replica is well."""
HEALTH_PATIENCE = 30.0
"""Seconds that it may take to say so."""
STOPPING = 15.0
"""Seconds that the processes of a replica have to end, beyond those of its requests."""
ATTEMPTS = 2
"""Starts of a replica that may fail before the deployment does."""
LOOK_BACK = 3.0
"""Seconds over which requests under way are averaged."""
UPSCALE_DELAY, DOWNSCALE_DELAY = 10.0, 300.0


def check(options: RayOptions) -> None:
    """Raise UsageError for options that contradict each other or have no effect."""
    low, high = options.min_replicas, options.max_replicas
    if high is None:
        for name in ("min_replicas", "target_requests", "upscale_delay", "downscale_delay"):
            if getattr(options, name) is not None:
                raise UsageError(f"{name}: the number of replicas only changes with max_replicas; give that", [name])
    elif options.replicas is not None:
        raise UsageError("replicas: cannot be used with max_replicas, which lets the load decide", ["replicas"])
    elif low is not None and low > high:
        raise UsageError(f"min_replicas={low} is more than max_replicas={high}", ["min_replicas"])
    if options.prefix_margin is not None and not options.prefix_routing:
        raise UsageError("prefix_margin: has no effect with prefix_routing=false; leave one out", ["prefix_margin"])


def most(options: RayOptions) -> int:
    """How many replicas there may be at a time."""
    return options.max_replicas or options.replicas or DEFAULT_REPLICAS


def fewest(options: RayOptions) -> int:
    """How many replicas there are at the start."""
    return most(options) if options.max_replicas is None else options.min_replicas or 1


def check_room(options: RayOptions, config: ServerConfig, resources: Mapping[str, float]) -> None:
    """Raise ConfigError where the replicas of the start would wait for ever for what is not there.

    Args:
        resources: all that Ray has, by its names.
    """
    each = gpus(options, config, bool(resources.get("GPU")))
    there = int(resources.get("GPU", 0))
    if fewest(options) * each > there:
        raise ConfigError(f"{fewest(options)} replica(s) with {each} GPU(s) each: this machine has {there} for Ray")


def cpus(options: RayOptions) -> int:
    """Processors of a replica."""
    if options.replica_cpus is not None:
        return options.replica_cpus
    return max(1, usable_cores() // most(options)) if options.ray_address is None else 1


def gpus(options: RayOptions, config: ServerConfig, available: bool) -> int:
    """GPUs of a replica.

    Args:
        available: whether the cluster has any.
    """
    if options.replica_gpus is not None:
        return options.replica_gpus
    shards = 1 if config.sharded is False else config.num_shard or 1
    return shards if available else 0


def deployment(options: RayOptions, config: ServerConfig, available: bool) -> dict[str, Any]:
    """The arguments of `ray.serve.deployment`, but those that need Ray.

    Args:
        available: whether the cluster has GPUs.
    """
    return {
        "max_ongoing_requests": config.max_concurrent_requests + ROOM,
        "graceful_shutdown_wait_loop_s": 0.2,
        "graceful_shutdown_timeout_s": config.shutdown_timeout + STOPPING,
        "health_check_period_s": HEALTH_PERIOD,
        "health_check_timeout_s": HEALTH_PATIENCE,
        "max_constructor_retry_count": ATTEMPTS,
        **_number(options, config),
        **_resources(cpus(options), gpus(options, config, available)),
    }


def _number(options: RayOptions, config: ServerConfig) -> dict[str, Any]:
    if options.max_replicas is None:
        return {"num_replicas": most(options)}
    return {
        "autoscaling_config": {
            "min_replicas": fewest(options),
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.target_requests or max(1.0, config.max_concurrent_requests / 2),
            "upscale_delay_s": UPSCALE_DELAY if options.upscale_delay is None else options.upscale_delay,
            "downscale_delay_s": DOWNSCALE_DELAY if options.downscale_delay is None else options.downscale_delay,
            "look_back_period_s": LOOK_BACK,
        }
    }


def _resources(cpus: int, gpus: int) -> dict[str, Any]:
    """One actor takes all; several GPUs are set aside together, on one node."""
    actor = {"num_cpus": cpus, "num_gpus": gpus}
    if gpus < 2:
        return {"ray_actor_options": actor}
    return {
        "ray_actor_options": actor,
        "placement_group_bundles": [{"CPU": cpus, "GPU": gpus}],
        "placement_group_strategy": "STRICT_PACK",
    }
