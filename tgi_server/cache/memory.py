"""The memory of the caches: how much is free, how many blocks of each group fit into it. Sizes are in bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tgi_server import host
from tgi_server.cache.kinds import CacheGroup, CacheKind, blocks_of, unshared
from tgi_server.cache.lengths import USABLE, lengths_within
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ConfigError
from tgi_server.kernels.attention import LayerCache
from tgi_server.models.description import Description, kv_heads_of_rank
from tgi_server.types import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class GroupSize:
    """A group of layers, and the bytes of one of its blocks on one rank."""

    group: CacheGroup
    layers: int
    block_bytes: int


def group_sizes(spec: Description, world: int, dtype: torch.dtype, rank: int | None = None) -> list[GroupSize]:
    """Of each group of a model, on one of its ranks; by default on that which keeps most, as all have to be planned."""
    return [
        GroupSize(group, spec.group_of.count(number), spec.block_bytes(number, world, dtype.itemsize, rank))
        for number, group in enumerate(spec.groups)
    ]


def free_memory(device: torch.device, fraction: float) -> int:
    """What this process may still take: of `fraction` of a GPU, or of the host within its limits."""
    if device.type == "cuda":
        return within_fraction(*torch.cuda.mem_get_info(device), torch.cuda.memory_reserved(device), fraction)
    return host.free_memory()


def within_fraction(free: int, total: int, taken: int, fraction: float) -> int:
    """What is left of `fraction` of a GPU's `total` bytes for a process that has `taken` some; no more than is `free`.

    Other processes count only as far as they leave less than that, so that two servers may share a GPU half and half.
    """
    return max(0, min(free, int(fraction * total) - taken))


class CachePlan:
    """How many blocks each group gets, for a cache of so many tokens.

    A group that keeps whole contexts gets a block for every `BLOCK_SIZE` tokens. One with a window gets what as many
    requests of the greatest length need of it, and one window more; one of encoder outputs what their prompts need.

    Args:
        options: the limits of requests and steps.
        sizes: the groups of the model.
        width: most new tokens that a step computes of a sequence.
    """

    def __init__(self, options: BatchingOptions, sizes: Sequence[GroupSize], width: int = 1) -> None:
        self._options = options
        self._sizes = sizes
        self._width = width
        groups = [size.group for size in sizes]
        self._sharing = unshared(groups, options.prefix_caching, options.max_total_tokens) is None
        self._longest = options.max_total_tokens - (width == 1)  # without guesses the last token takes no position
        self._whole = blocks_of(self._longest)
        self._chunk = options.prefill_chunk_tokens or options.max_input_length

    def blocks(self, tokens: int) -> list[int]:
        """Of each group, for a cache of `tokens`."""
        return [self._of(size.group, blocks_of(tokens)) for size in self._sizes]

    def bytes(self, tokens: int) -> int:
        """What such a cache takes."""
        return sum(n * size.block_bytes for n, size in zip(self.blocks(tokens), self._sizes, strict=True))

    def _of(self, group: CacheGroup, full: int) -> int:
        options = self._options
        if group.kind is CacheKind.WINDOW and self._sharing:
            return full
        if group.kind is CacheKind.STATE:
            given = options.max_batch_total_tokens
            return min(options.max_concurrent_requests, max(1, given // self.per_request) if given else 1 << 40)
        if group.kind is CacheKind.FULL:
            return full
        if group.kind is CacheKind.ENCODER:
            return min(full, -(-full * blocks_of(options.max_input_length) // self._whole))
        longest = group.blocks(options.max_input_length, self._longest, self._chunk, self._width)
        return min(full, -(-full * longest // self._whole) + group.lasting(self._width))

    def of(self, options: BatchingOptions) -> CachePlan:
        """The plan of the same model with other options."""
        return CachePlan(options, self._sizes, self._width)

    def fits_one(self, free: int) -> bool:
        """Whether `free` bytes hold the longest request."""
        return self.bytes(self.per_request) <= int(free * USABLE)

    @property
    def per_request(self) -> int:
        """Tokens of cache that the longest request takes."""
        return self._whole * BLOCK_SIZE

    def tokens(self, free: int) -> int:
        """The largest cache that `free` bytes hold, in tokens."""
        usable, low, high = int(free * USABLE), 0, 1
        while self.bytes(high * BLOCK_SIZE) <= usable and high < 1 << 40:
            high *= 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.bytes(middle * BLOCK_SIZE) <= usable else (low, middle)
        return low * BLOCK_SIZE


def plan_tokens(options: BatchingOptions, plan: CachePlan, free: int) -> int:
    """How many tokens the caches are made for.

    `max_batch_total_tokens` when given, else as many as `max_concurrent_requests` full requests can use and `free`
    bytes can hold. Raises ConfigError, naming the options and the largest values that work, when it does not fit.
    """
    if (least := plan.bytes(0)) > free * USABLE:
        raise ConfigError(
            f"max_concurrent_requests={options.max_concurrent_requests}: the states of so many texts take "
            f"{least / 2**30:.1f} GiB, which do not fit in the free memory ({free / 2**30:.1f} GiB); the largest value "
            f"that does is {int(options.max_concurrent_requests * free * USABLE / least)}"
        )
    fits = plan.tokens(free)
    per_request = plan.per_request
    if per_request > fits:
        raise ConfigError(
            f"max_total_tokens={options.max_total_tokens} does not fit in the free memory ({free / 2**30:.1f} GiB); "
            f"{_that_fit(options, plan, free)}"
        )
    if options.max_batch_total_tokens is not None:
        if options.max_batch_total_tokens > fits:
            raise ConfigError(
                f"max_batch_total_tokens={options.max_batch_total_tokens} does not fit in the free memory "
                f"({free / 2**30:.1f} GiB); the largest value that does is {fits}"
            )
        return blocks_of(options.max_batch_total_tokens) * BLOCK_SIZE
    return min(fits, per_request * options.max_concurrent_requests)


def _that_fit(options: BatchingOptions, plan: CachePlan, free: int) -> str:
    """The largest lengths of which a request fits, as options."""
    lengths = lengths_within(options, lambda shorter: plan.of(shorter).fits_one(free))
    if lengths is None:
        return "nor does any other length"
    prompt, total = lengths
    given = options.max_batch_total_tokens
    cache = "" if given is None else f" max_batch_total_tokens={max(total, min(given, plan.tokens(free)))}"
    return f"the largest lengths that do: max_input_length={prompt} max_total_tokens={total}{cache}"


def allocate(
    spec: Description,
    blocks: Sequence[int],
    world: int,
    dtype: torch.dtype,
    device: torch.device,
    rank: int = 0,
    written: bool = False,
) -> list[LayerCache]:
    """The cache of every layer on one rank, of as many blocks as its group has.

    Unless it is to be `written`, a block costs memory on a CPU only once it is used.
    """
    made = torch.zeros if written and device.type == "cpu" else torch.empty
    caches = []
    for past, group in zip(spec.pasts, spec.group_of, strict=True):
        heads = kv_heads_of_rank(past.kv_heads, world, rank) if past.kv_heads else 0
        keys, values = (
            made((blocks[group], heads, BLOCK_SIZE, width), dtype=dtype, device=device)
            for width in (past.key_width, past.value_width)
        )
        states = [
            made((blocks[group], *shape), dtype=torch.float32, device=device)
            for shape in past.states_of_rank(world, rank)
        ]
        caches.append(LayerCache(keys, values, states=tuple(states)))
    return caches


def arithmetic(sizes: Sequence[GroupSize], blocks: Sequence[int], weights: int, free: int) -> Iterator[str]:
    """Where the memory goes, a line each: weights, the caches by group, what is left."""
    yield f"weights: {weights / 2**30:.2f} GiB"
    total = 0
    for size, count in zip(sizes, blocks, strict=True):
        taken = count * size.block_bytes
        total += taken
        window = "" if size.group.window is None else f" of {size.group.window} positions"
        name = f"cache, {size.group.kind.value}{window}, {size.layers} layers"
        if size.group.kind is CacheKind.STATE:
            yield f"{name}: {size.block_bytes / 1024:.2f} KiB a text, {count} texts, {taken / 2**30:.2f} GiB"
            continue
        yield (
            f"{name}: {size.block_bytes / BLOCK_SIZE / 1024:.2f} KiB a token, "
            f"{count * BLOCK_SIZE} tokens in {count} blocks, {taken / 2**30:.2f} GiB"
        )
    yield f"left: {(free - total) / 2**30:.2f} of {free / 2**30:.2f} GiB that were free"
