"""The cache blocks of all groups of layers, and which sequence holds which of them."""

from __future__ import annotations

from collections.abc import Sequence as Items

from tgi_server.batching.blocks import BlockPool
from tgi_server.batching.policy import Need
from tgi_server.batching.sequence import Sequence
from tgi_server.cache import kinds
from tgi_server.cache.kinds import CacheGroup
from tgi_server.types import BLOCK_SIZE, CacheKind, GroupInfo


class _Blocks:
    """Those of one group.

    Args:
        group: how the past is held.
        chunk: most prompt positions that a step computes of a sequence; None when it computes the whole prompt.
        draft: most tokens that are guessed of a sequence in a step.
        encoded: whether an encoder reads the prompts, so that a decoder's text begins with one token.
    """

    def __init__(self, group: CacheGroup, total: int, chunk: int | None, draft: int, encoded: bool) -> None:
        self._begun = 1 if encoded and group.kind is not CacheKind.ENCODER else None
        self.group = group
        self.pool = BlockPool(total)
        self._chunk = chunk
        self._draft = draft

    def needed(self, sequence: Sequence) -> int:
        """Most blocks that it holds at a time."""
        return self.group.blocks(*self._measures(sequence))

    def table(self, sequence: Sequence, own: Items[int]) -> list[int]:
        """Where each block of its positions lives, in the blocks that it holds."""
        return kinds.table(self.group, own, *self._measures(sequence))

    def after_prompt(self, sequence: Sequence, own: list[int], table: list[int]) -> list[int]:
        """Take back what only the prompt needed of the blocks `own`; returns the rest."""
        first = kinds.first_seen(self.group, self._begun or sequence.input_length)
        if not first:
            return own
        kept = set(table[first:])
        self.pool.release([block for block in own if block not in kept])
        return [block for block in own if block in kept]

    def _measures(self, sequence: Sequence) -> tuple[int, int, int, int]:
        prompt = self._begun or sequence.input_length
        total = kinds.positions(prompt, sequence.max_new_tokens, self._draft)
        return prompt, total, self._chunk or prompt, 1 + self._draft


class Cache:
    """The blocks of every group.

    With `sharing`, blocks that hold the same of two prompts are shared; every group then keeps the whole past. With
    `encoded`, prompts are read by an encoder.
    """

    def __init__(
        self, groups: Items[GroupInfo], chunk: int | None, draft: int, sharing: bool, encoded: bool = False
    ) -> None:
        self._groups = [
            _Blocks(kinds.held(CacheGroup(info.kind, info.window), sharing), info.num_blocks, chunk, draft, encoded)
            for info in groups
        ]
        self._told = next((blocks for blocks in self._groups if blocks.group.kind is CacheKind.FULL), self._groups[0])

    @property
    def free(self) -> list[int]:
        """Blocks of each group that nobody holds."""
        return [blocks.pool.free for blocks in self._groups]

    @property
    def used_tokens(self) -> int:
        """Positions of the blocks that somebody holds, in the group that `ShardInfo.cache_tokens` is about."""
        return self._told.pool.used * BLOCK_SIZE

    def measure(self, sequence: Sequence) -> int | None:
        """Find out what `sequence` needs. The tokens of a group's cache that could never hold it; None if all can."""
        sequence.needed = [blocks.needed(sequence) for blocks in self._groups]
        for blocks, needed in zip(self._groups, sequence.needed, strict=True):
            if needed > blocks.pool.total:
                return blocks.pool.total * BLOCK_SIZE
        return None

    def need(self, sequence: Sequence) -> Need:
        """What it would take if it started now."""
        if not sequence.prefix:
            return Need(sequence.input_length, sequence.needed)
        found = self._found(sequence)
        idle = [blocks.pool.idle(shared) for blocks, shared in zip(self._groups, found, strict=True)]
        cached = len(found[0])
        missing = [needed - cached + more for needed, more in zip(sequence.needed, idle, strict=True)]
        return Need(sequence.input_length - cached * BLOCK_SIZE, missing)

    def start(self, new: Items[Sequence]) -> None:
        """Give sequences the blocks of their lives, and those that are computed already."""
        for sequence in new:
            sequence.own = self._found(sequence)
            sequence.cached = len(sequence.own[0]) * BLOCK_SIZE
            for blocks, shared in zip(self._groups, sequence.own, strict=True):
                blocks.pool.share(shared)
        for sequence in new:  # after all have what they found, which could be evicted for these
            for blocks, own, needed in zip(self._groups, sequence.own, sequence.needed, strict=True):
                own += blocks.pool.allocate(needed - len(own))
            sequence.blocks = [
                blocks.table(sequence, own) for blocks, own in zip(self._groups, sequence.own, strict=True)
            ]

    def after_prompt(self, sequence: Sequence) -> None:
        """The step that computes the rest of its prompt is planned: later plans may use what no later step sees."""
        sequence.own = [
            blocks.after_prompt(sequence, own, table)
            for blocks, own, table in zip(self._groups, sequence.own, sequence.blocks, strict=True)
        ]

    def keep(self, sequence: Sequence) -> None:
        """Its prompt is computed: remember what is in its blocks, if they may be shared."""
        if sequence.prefix:
            for blocks, own in zip(self._groups, sequence.own, strict=True):
                blocks.pool.keep(sequence.prefix, own)

    def release(self, sequence: Sequence) -> None:
        """Take all its blocks back; it has none when that was done before."""
        for blocks, own in zip(self._groups, sequence.own, strict=False):
            blocks.pool.release(own)
        sequence.own, sequence.blocks = [], []

    def _found(self, sequence: Sequence) -> list[list[int]]:
        """Blocks of each group that hold the start of its prompt; its last token is computed always, for the logits."""
        keys = sequence.prefix[: (sequence.input_length - 1) // BLOCK_SIZE]
        found = [blocks.pool.find(keys) for blocks in self._groups]
        shared = min(map(len, found))
        return [own[:shared] for own in found]
