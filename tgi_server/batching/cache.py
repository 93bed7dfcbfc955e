"""The cache blocks of all groups of layers, and which sequence holds which of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from collections.abc import Sequence as Items
from itertools import chain, islice, takewhile
from typing import NamedTuple

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


class _Filled(NamedTuple):
    """A block that a step fills with 16 tokens of a prompt, and what is then in it."""

    id: int
    key: bytes
    block: int


class Cache:
    """The blocks of every group.

    With `sharing`, blocks that hold the same of two prompts are shared. Every group then keeps the whole past, and all
    use the same blocks. One may be shared as soon as the step that fills it is planned: later steps find it filled, and
    so do the others of that step, in which each layer's keys and values are in the cache before anything looks there.
    With `encoded`, prompts are read by an encoder.
    """

    def __init__(
        self, groups: Items[GroupInfo], chunk: int | None, draft: int, sharing: bool, encoded: bool = False
    ) -> None:
        self._alike = len(groups) if sharing else 1  # groups that use the same blocks
        if sharing:
            groups = [GroupInfo(CacheKind.FULL, None, min(info.num_blocks for info in groups))]
        self._groups = [
            _Blocks(CacheGroup(info.kind, info.window), info.num_blocks, chunk, draft, encoded) for info in groups
        ]
        self._told = next((blocks for blocks in self._groups if blocks.group.kind is CacheKind.FULL), self._groups[0])
        self._shared = self._groups[0].pool
        self._filled: dict[int, list[_Filled]] = {}  # by steps whose outcome is not there yet

    @property
    def free(self) -> list[int]:
        """Blocks of each group that nobody holds."""
        return [blocks.pool.free for blocks in self._groups]

    @property
    def pools(self) -> dict[str, BlockPool]:
        """The blocks of each group by what it keeps: `full`, `window-512`, `state`, `encoder`. Do not change them."""
        return {_name(blocks.group): blocks.pool for blocks in self._groups}

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

    def needs(self, waiting: Iterable[Sequence]) -> Iterator[Need]:
        """What each would take if it started now, in one step with those before it."""
        taken, filled = set[int](), set[bytes]()
        for sequence in waiting:
            if not sequence.prefix:
                yield Need(sequence.input_length, sequence.needed)
                continue
            found = self._shared.find(sequence.sharable)
            idle = [block for block in self._shared.idle(found) if block not in taken]
            cached = len(found)
            if filled:
                cached += sum(1 for _ in takewhile(filled.__contains__, sequence.sharable[cached:]))
            yield Need(sequence.input_length - cached * BLOCK_SIZE, [sequence.needed[0] - cached + len(idle)])
            taken.update(idle)
            filled.update(sequence.prefix)

    def start(self, new: Items[Sequence], step: int) -> None:
        """Give sequences the blocks of their lives, and those that are computed already.

        All but the last of them have their whole prompts computed in the step.
        """
        for sequence in new:  # all have what they find before it could be evicted for one of them
            sequence.own = [[] for _ in self._groups]
            self._find(sequence)
        for place, sequence in enumerate(new):
            if place:
                self.fill(new[place - 1], step, 0)
                self._find(sequence)
            sequence.kept = len(sequence.own[0])
            sequence.cached = sequence.kept * BLOCK_SIZE
            for blocks, own, needed in zip(self._groups, sequence.own, sequence.needed, strict=True):
                own += blocks.pool.allocate(needed - len(own))
            tables = [blocks.table(sequence, own) for blocks, own in zip(self._groups, sequence.own, strict=True)]
            sequence.blocks = tables * self._alike

    def fill(self, sequence: Sequence, step: int, left: int) -> None:
        """The step, which is planned, computes its prompt but for `left` tokens: remember what is in its blocks."""
        first, last = sequence.kept, (sequence.input_length - left) // BLOCK_SIZE
        keys = sequence.prefix[first:last]
        if keys:
            blocks = sequence.own[0][first:last]
            kept = self._shared.keep(keys, blocks)
            sequence.kept += kept
            filled = self._filled.setdefault(step, [])
            filled += [_Filled(sequence.id, key, block) for key, block in islice(zip(keys, blocks, strict=True), kept)]

    def after_prompt(self, sequence: Sequence) -> None:
        """The step that computes the rest of its prompt is planned: later plans may use what no later step sees."""
        sequence.own = [
            blocks.after_prompt(sequence, own, table)
            for blocks, own, table in zip(self._groups, sequence.own, sequence.blocks, strict=False)
        ]

    def prove(self, step: int, failed: Collection[int], started: Iterable[Sequence]) -> list[Sequence]:
        """The outcome of a step is there. Who of `started` looks for something where a `failed` sequence left nothing.

        After a failure nothing is remembered of the step and of later ones, which may build on it.
        """
        filled = self._filled.pop(step, [])
        if not failed:
            return []
        filled = [*filled, *chain.from_iterable(self._filled.values())]
        missing = {each.key for each in filled if each.id in failed}
        for each in filled:
            self._shared.forget(each.key, each.block)
        lost = []
        for sequence in started:
            sequence.prefix = sequence.prefix[: sequence.cached // BLOCK_SIZE]  # nothing more of it is to be remembered
            if not missing.isdisjoint(sequence.prefix):
                lost.append(sequence)
        return lost

    def release(self, sequence: Sequence) -> None:
        """Take all its blocks back; it has none when that was done before."""
        for blocks, own in zip(self._groups, sequence.own, strict=False):
            blocks.pool.release(own)
        sequence.own = []

    def _find(self, sequence: Sequence) -> None:
        """Let it share the blocks that hold the start of its prompt, beyond those that it shares already."""
        (own, *_), keys = sequence.own, sequence.sharable
        if keys:
            found = self._shared.find(keys[len(own) :])
            self._shared.share(found)
            own += found


def _name(group: CacheGroup) -> str:
    return group.kind.value if group.window is None else f"{group.kind.value}-{group.window}"
