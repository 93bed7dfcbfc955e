"""Ray itself: started here for one command, or a cluster that runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from tgi_server.errors import ConfigError
from tgi_server.replicas import plan
from tgi_server.replicas.options import RayOptions

_OBJECTS = 100 << 20
"""Bytes of Ray's object store on this machine, where only what is larger than 100 KB is put."""
_LOOPBACK = "127.0.0.1"


@contextmanager
def connected(options: RayOptions) -> Iterator[str | None]:
    """Ray on this machine until this ends, or the cluster that is there, and then this machine's address in it.

    Raises ConfigError where there is none.
    """
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
    except (RayError, OSError, ValueError, RuntimeError) as error:  # the last of another version
        where = f"ray_address={options.ray_address}" if options.ray_address else "Ray does not start on this machine"
        raise ConfigError(f"{where}: {first_line(error)}") from error
    try:
        yield ray.util.get_node_ip_address() if options.ray_address else None
    finally:
        ray.shutdown()


def first_line(error: object) -> str:
    """Of what an error says, or else its name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
