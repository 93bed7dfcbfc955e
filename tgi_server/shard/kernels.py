"""Which kernels a shard would take, told on standard output; the configuration on standard input.

`python -m tgi_server.shard.kernels`, for the report of `--env`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import torch

from tgi_server import custom_kernels
from tgi_server.attention.auto import AutoAttention
from tgi_server.config import load
from tgi_server.config.schema import Launch

_HEAD_DIM = 64
"""The width of most models' attention heads; the model's own is not known yet."""


def problems(launch: Launch, device: torch.device) -> Iterator[str]:
    """`NAME: works`, or why not, for the configured parts. An automatic choice logs why it passes others over."""
    dtype = getattr(torch, launch.resolved.dtype.name)
    attention = load.instantiate(launch.config.attention)
    if isinstance(attention, AutoAttention):
        attention = attention.choose(device, dtype, _HEAD_DIM)
    quantize = load.instantiate(launch.config.quantize)
    for part, reasons in (
        (attention, attention.unsupported(device, dtype, _HEAD_DIM)),
        (quantize, quantize.unsupported(device, dtype)),
    ):
        yield f"{type(part).__name__} for {dtype} on {device}: {'; '.join(reasons) or 'works'}"


def main() -> None:
    """Print a line for each thing that is known."""
    launch = load.read(sys.stdin)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if launch.config.disable_custom_kernels:
        custom_kernels.disable()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for line in problems(launch, device):
        print(line)


if __name__ == "__main__":
    main()
