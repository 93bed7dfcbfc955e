"""The kinds of past that layers keep, and how many blocks a sequence holds of each. Stdlib only: the scheduler counts
with it, the shard sizes its memory by it, the launcher refuses by it what cannot fit.

Layers whose past is held alike are one group: their caches have the same blocks at the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tgi_server.types import BLOCK_SIZE
from tgi_server.types import CacheKind as CacheKind


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """What the scheduler has to know of a group. `window` is that of WINDOW groups: the positions that a query sees,
    its own included."""

    kind: CacheKind
    window: int | None = None

    def lasting(self, width: int) -> int:
        """Blocks of a WINDOW group that a step of `width` new positions may touch, wherever they lie in their blocks.

        The first of them sees `window` - 1 positions before it. n positions lie in at most ceil((n - 1) / 16) + 1
        blocks.
        """
        assert self.window is not None
        return blocks_of(self.window + width - 2) + 1

    def blocks(self, prompt: int, total: int, chunk: int, width: int) -> int:
        """Most blocks that a sequence holds at a time; it grows with each argument.

        Args:
            prompt: its tokens.
            total: positions it may ever take: `positions(prompt, max_new_tokens, draft)`.
            chunk: most prompt positions that one step computes of it.
            width: most new tokens that one step computes of it, guessed ones included.
        """
        if self.kind is CacheKind.STATE:
            return 1
        if self.kind is CacheKind.ENCODER:
            return blocks_of(prompt)
        if self.kind is CacheKind.FULL:
            return blocks_of(total)
        return max(min(blocks_of(prompt), self.lasting(min(chunk, prompt))), min(blocks_of(total), self.lasting(width)))


def positions(prompt: int, max_new_tokens: int, draft: int) -> int:
    """Positions a sequence may ever take.

    Its last token is never fed back, but where tokens are guessed a plan may come once too often.
    """
    return prompt + max_new_tokens - 1 + min(draft, 1)


def blocks_of(positions: int) -> int:
    """Blocks for so many positions from the start of one."""
    return -(-positions // BLOCK_SIZE)


def unshared(groups: Iterable[CacheGroup], wanted: bool | None, longest: int) -> str | None:
    """Why blocks are not shared by prompts that begin alike; None if they are.

    Where they are, every group keeps the whole past, so that what fell out of a window can be found again.

    Args:
        wanted: the option `prefix_caching`; None for wherever it takes nothing.
        longest: positions that a text may have.
    """
    if wanted is False:
        return "prefix_caching=false"
    for group in groups:
        if group.kind is CacheKind.STATE:
            return "a recurrent state is that of one position only"
        if group.kind is CacheKind.ENCODER:
            return "what an encoder reads depends on the whole prompt"
        if group.window is not None and group.window < longest and not wanted:
            return "layers with a window would have to keep what lies before it (prefix_caching=true lets them)"
    return None


_READ_BY: Mapping[str, frozenset[CacheKind]] = {
    "max_input_length": frozenset([CacheKind.WINDOW, CacheKind.ENCODER]),
    "prefill_chunk_tokens": frozenset([CacheKind.WINDOW]),
    "prefix_caching": frozenset([CacheKind.WINDOW]),
}
"""Options that decide how large the caches of some kinds of groups are, and nothing else of a shard."""


def without_effect(kinds: Iterable[CacheKind]) -> set[str]:
    """Options that make no difference to the shards of a model with groups of these kinds."""
    present = set(kinds)
    return {name for name, readers in _READ_BY.items() if readers.isdisjoint(present)}


def table(group: CacheGroup, own: Sequence[int], prompt: int, total: int, chunk: int, width: int) -> list[int]:
    """A sequence's block table: block i of its positions lives in the physical block `table[i]`.

    Args:
        own: physical blocks that it holds, as many as `blocks` says for the same other arguments.

    In a WINDOW group blocks come round again, soon enough for `own` to do and late enough that none is written while
    a position in it is still seen: any `lasting` blocks in a row differ. First the prompt goes round in a ring for
    chunks. Then, from the first block that a new token sees, the text goes round in a ring for single steps; the blocks
    that it needs beyond those in the window are taken from the ones before it.
    """
    if group.kind is not CacheKind.WINDOW:
        return list(own)
    ring, last = group.lasting(min(chunk, prompt)), blocks_of(prompt)
    numbers = [own[i % ring] for i in range(last)]
    first, ring = first_seen(group, prompt), group.lasting(width)
    seen = set(numbers[first:])
    spare = (block for block in own if block not in seen)
    for i in range(last, blocks_of(total)):
        numbers.append(numbers[i - ring] if i - ring >= first else next(spare))
    return numbers


def first_seen(group: CacheGroup, position: int) -> int:
    """The first block of which a query at `position` sees something; blocks before it are never read again."""
    return 0 if group.window is None else max(0, position - group.window + 1) // BLOCK_SIZE
