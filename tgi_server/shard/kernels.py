"""Which kernels a shard would take, told on standard output; the configuration on standard input.

`python -m tgi_server.shard.kernels`, for the report of `--env`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from tgi_server.config import load
from tgi_server.config.schema import Launch
from tgi_server.kernels.formats import Dense
from tgi_server.kernels.row import Needs
from tgi_server.kernels.table import report


def lines(launch: Launch, device: torch.device) -> Iterator[str]:
    """Who computes each operation, and why not others; for heads of usual width, as the model is not known yet."""
    needs = Needs(
        device=device,
        dtype=getattr(torch, launch.resolved.dtype.name),
        plain=launch.config.disable_custom_kernels,
        library=load.instantiate(launch.config.attention).wanted,
        format=Dense,
    )
    yield from report(needs)


def main() -> None:
    """Print a line for each operation."""
    launch = load.read(sys.stdin)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for line in lines(launch, device):
        print(line)


if __name__ == "__main__":
    main()
