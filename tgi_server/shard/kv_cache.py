"""The paged KV cache: how many blocks fit, and the memory itself."""

from __future__ import annotations

from pathlib import Path

import torch

from tgi_server.attention.base import AttentionShape, LayerCache
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ConfigError
from tgi_server.types import BLOCK_SIZE

USABLE = 0.9
"""Part of the free memory that the cache may take; the rest covers activations and fragmentation."""


def block_bytes(shape: AttentionShape, layers: int, dtype: torch.dtype) -> int:
    """Bytes of one block on one rank: keys and values of every layer."""
    return 2 * layers * shape.num_kv_heads * shape.head_dim * BLOCK_SIZE * dtype.itemsize


def free_memory(device: torch.device, fraction: float) -> int:
    """Bytes that this process may still take: of `fraction` of a GPU, or of the host within its memory limit."""
    if device.type == "cuda":
        return within_fraction(*torch.cuda.mem_get_info(device), torch.cuda.memory_reserved(device), fraction)
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    return min([available, *_cgroup_rooms()])


def within_fraction(free: int, total: int, taken: int, fraction: float) -> int:
    """What is left of `fraction` of a GPU's `total` bytes for a process that has `taken` some; no more than is `free`.

    Other processes count only as far as they leave less than that, so that two servers may share a GPU half and half.
    """
    return max(0, min(free, int(fraction * total) - taken))


def _cgroup_rooms() -> list[int]:
    """What is left of the container's memory limit (cgroup v2, then v1); empty without a limit."""
    rooms = []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            total = Path("/sys/fs/cgroup", limit).read_text().strip()
            taken = Path("/sys/fs/cgroup", used).read_text().strip()
        except OSError:
            continue
        if total != "max":
            rooms.append(int(total) - int(taken))
    return rooms


def plan_blocks(options: BatchingOptions, free: int, bytes_per_block: int) -> int:
    """How many blocks to allocate.

    `max_batch_total_tokens` when given, else as many as `max_concurrent_requests` full requests can use and `free`
    bytes can hold. Raises ConfigError, naming the option and the largest value that works, when it does not fit.
    """
    fits = int(free * USABLE) // bytes_per_block
    per_request = -(-options.max_total_tokens // BLOCK_SIZE)
    if options.max_batch_total_tokens is not None:
        wanted = -(-options.max_batch_total_tokens // BLOCK_SIZE)
        if wanted > fits:
            raise ConfigError(
                f"max_batch_total_tokens={options.max_batch_total_tokens} does not fit in the free memory "
                f"({free / 2**30:.1f} GiB); the largest value that does is {fits * BLOCK_SIZE}"
            )
        return wanted
    if per_request > fits:
        raise ConfigError(
            f"max_total_tokens={options.max_total_tokens} does not fit in the free memory ({free / 2**30:.1f} GiB); "
            f"the largest value that does is {fits * BLOCK_SIZE}"
        )
    return min(fits, per_request * options.max_concurrent_requests)


def allocate(
    blocks: int, shape: AttentionShape, layers: int, dtype: torch.dtype, device: torch.device
) -> list[LayerCache]:
    """The cache of every layer. Left unwritten, so that on a CPU a block costs memory only once it is used."""
    size = (blocks, shape.num_kv_heads, BLOCK_SIZE, shape.head_dim)
    return [
        LayerCache(torch.empty(size, dtype=dtype, device=device), torch.empty(size, dtype=dtype, device=device))
        for _ in range(layers)
    ]
