"""Entry point of a shard process: `python -m tgi_server.shard.main --rank R`, the configuration on standard input."""

from __future__ import annotations

import argparse
import sys
from logging import getLogger
from pathlib import Path

from tgi_server.config import load
from tgi_server.config.schema import Launch
from tgi_server.errors import TgiError
from tgi_server.models.check import described
from tgi_server.placement import placements, socket_path
from tgi_server.telemetry import logging

log = getLogger(__name__)


def serve(launch: Launch, rank: int) -> None:
    """Load the model and run plans until told to stop."""
    resolved = launch.resolved
    found = resolved.description
    spec = described(
        Path(resolved.model_dir), launch.config, resolved.num_shard, resolved.dtype,
        ask=None if found is None else lambda directory: found,
    )  # fmt: skip
    from tgi_server.rpc import server  # with the model's libraries, only once the options are known to work

    runner = load.instantiate(launch.config.runner, launch=launch, spec=spec, rank=rank)
    path = socket_path(launch.config, rank)
    place, remote = placements(launch.config, resolved.num_shard, resolved.node_hosts)[rank], None
    if place.node:
        assert resolved.call_key, "nodes agree on one"  # anybody could show an empty one
        remote = server.Remote(place.address, resolved.call_key)
    server.serve(path, runner.info, runner.step, runner.reset, rank, resolved.watched, remote)


def main() -> int:
    """Exit status: 0 when stopped, 1 when the model cannot be served (last line on stderr: why)."""
    parser = argparse.ArgumentParser(prog="python -m tgi_server.shard.main")
    parser.add_argument("--rank", type=int, required=True)
    rank = parser.parse_args().rank
    launch = load.read(sys.stdin)
    logging.setup(launch.config, f"shard-{rank}")
    try:
        serve(launch, rank)
    except TgiError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        log.debug("rank %d failed", rank, exc_info=True)
        print(f"Error: {type(error).__name__}: {error} (log_level=debug shows where)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
