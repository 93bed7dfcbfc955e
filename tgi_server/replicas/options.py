"""The options of replicas on Ray Serve: the fields of its job. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional

from tgi_server.config.base import Options, option
from tgi_server.replicas.affinity import MARGIN, WORTH

PREFIX_MARGIN = (
    "Most requests under way that a replica may have more than the least busy one, and still be sent a request for "
    f"what it has cached; a beginning of some {16 * WORTH:.0f} tokens makes up for one of them. Unset: {MARGIN}."
)


@dataclass
class RayOptions(Options):
    """What replicas there are, and who gets which request."""

    concerns: ClassVar[tuple[str, ...]] = ("job",)

    replicas: Optional[int] = option(
        None,
        "Replicas that run all the time, each a whole server with its own shards. Unset: 2, or as many as the load "
        "needs with max_replicas.",
        minimum=1,
    )
    max_replicas: Optional[int] = option(
        None, "Most replicas: their number follows the requests under way (target_requests).", minimum=1
    )
    min_replicas: Optional[int] = option(
        None, "Fewest replicas, with max_replicas, and how many there are at the start. Unset: 1.", minimum=1
    )
    target_requests: Optional[float] = option(
        None,
        "Requests under way a replica, running and waiting, that their number is chosen for. Unset: half of "
        "max_concurrent_requests.",
        minimum=0.1,
    )
    upscale_delay: Optional[float] = option(
        None, "Seconds that more replicas have to be needed before they are started. Unset: 10.", minimum=0
    )
    downscale_delay: Optional[float] = option(
        None, "Seconds that fewer replicas have to be enough before one is drained and stopped. Unset: 300.", minimum=0
    )
    replica_cpus: Optional[int] = option(
        None,
        "Processors that Ray sets aside for a replica, and threads that its shards compute with together. Unset: an "
        "even share of this machine's; with ray_address 1.",
        minimum=1,
    )
    replica_gpus: Optional[int] = option(
        None,
        "GPUs that Ray sets aside for a replica, all on one node. Unset: one for each shard (num_shard, else 1) where "
        "Ray knows of any.",
        minimum=0,
    )
    ray_address: Optional[str] = option(
        None,
        "Address of a Ray cluster that runs (HOST:PORT, or auto), which stays when this command ends. Unset: Ray is "
        "started on this machine for this command only, reachable from this machine only.",
    )
    prefix_routing: bool = option(
        True,
        "Send a request to the replica that was given much of its prompt's beginning before, whose cache may still "
        "have it, unless it is too busy. false: to the one with the fewest requests under way.",
    )
    prefix_margin: Optional[int] = option(None, PREFIX_MARGIN, minimum=0)
