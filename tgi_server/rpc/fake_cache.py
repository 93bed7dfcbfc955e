"""What a fake model's cache holds: nothing but the names of sequences, so that every use of a block can be checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tgi_server.types import BLOCK_SIZE, CacheKind, GroupInfo, NewSequence


class FakeCache:
    """The blocks of one group of layers; every method raises AssertionError when a block is not what it should be.

    Args:
        number: of the group in `NewSequence.blocks`.
        encoded: whether an encoder reads the prompts: other groups then hold one position in a prompt's place.
    """

    def __init__(self, info: GroupInfo, number: int, encoded: bool = False) -> None:
        self._info = info
        self._encoded = encoded
        self._number = number
        self._owners: dict[int, set[int]] = defaultdict(set)
        self._prompts: dict[int, tuple[Sequence[int], int]] = {}  # block → a prompt, and where in it the block ends
        self._spoilt: set[int] = set()  # blocks that a step should have filled which failed
        self._fresh: set[int] = set()  # sequences that have computed nothing
        self._written: dict[int, tuple[int, int]] = {}  # block → who wrote into it last, and at which block of its own

    def add(self, new: NewSequence) -> None:
        """A sequence comes with blocks that nobody else has, but for those that hold the start of its prompt."""
        table = new.blocks[self._number]
        repeats = self._info.kind is CacheKind.WINDOW
        assert repeats or len(set(table)) == len(table), f"sequence {new.id} has a block twice"
        for index, block in enumerate(table):
            assert block < self._info.num_blocks, f"there is no block {block}"
            others = self._owners[block] - {new.id}
            if index >= new.cached // BLOCK_SIZE:
                assert not others, f"block {block} of sequence {new.id} belongs to sequence {min(others, default=0)}"
            self._owners[block].add(new.id)
        self._fresh.add(new.id)

    def begin(self, new: NewSequence) -> bool:
        """Its first step wrote all that it writes: whether what it found is there, and not left out by a failure."""
        self._fresh.discard(new.id)
        for index, block in enumerate(new.blocks[self._number][: new.cached // BLOCK_SIZE]):
            stop = (index + 1) * BLOCK_SIZE
            if block in self._spoilt:
                return False
            prompt, end = self._prompts.get(block, ([], 0))
            assert end == stop, f"block {block} does not end at {stop}"
            assert prompt[:end] == new.prompt_ids[:end], f"block {block} does not hold the start of {new.id}"
        return True

    def forget(self, new: NewSequence) -> None:
        """A sequence is over."""
        self._fresh.discard(new.id)
        for block in new.blocks[self._number]:
            self._owners[block].discard(new.id)

    def write(self, new: NewSequence, start: int, stop: int, whole: int) -> None:
        """A step computes positions [start, stop). Of the prompt, the first `whole` positions are in the cache then; 0
        if it failed."""
        table = new.blocks[self._number]
        if self._info.kind is CacheKind.STATE:
            assert len(table) == 1, f"sequence {new.id} has {len(table)} states"
            return
        if self._info.kind is CacheKind.ENCODER:
            stop = min(stop, len(new.prompt_ids))
        elif self._encoded:
            prompt = len(new.prompt_ids) - 1
            start, stop, whole = max(0, start - prompt), stop - prompt, 0
        assert stop <= len(table) * BLOCK_SIZE, f"sequence {new.id} runs out of its blocks"
        for index in range(start // BLOCK_SIZE, -(-stop // BLOCK_SIZE)):
            self._write(new, table[index], index, whole)
        if self._info.window is not None:
            self._check_window(new, max(0, start - self._info.window + 1) // BLOCK_SIZE, -(-stop // BLOCK_SIZE))

    def _write(self, new: NewSequence, block: int, index: int, whole: int) -> None:
        others = self._owners[block] - {new.id}
        assert others <= self._fresh, f"sequence {new.id} writes into block {block}, which others read"
        self._written[block] = new.id, index
        self._spoilt.discard(block)
        self._prompts.pop(block, None)
        end = (index + 1) * BLOCK_SIZE
        if end <= whole:
            self._prompts[block] = new.prompt_ids, end
        elif not whole:
            self._spoilt.add(block)

    def _check_window(self, new: NewSequence, first: int, last: int) -> None:
        """What the step's first position sees must be there after all of its positions are written."""
        for index in range(max(first, new.cached // BLOCK_SIZE), last):
            block = new.blocks[self._number][index]
            assert self._written[block] == (new.id, index), f"sequence {new.id} has overwritten its block {index}"

    def prompt_done(self, new: NewSequence) -> None:
        """The prompt is computed: what no later position sees may belong to others from the next plan on."""
        if self._info.window is not None:
            table = new.blocks[self._number]
            prompt = 1 if self._encoded else len(new.prompt_ids)
            first = max(0, prompt - self._info.window + 1) // BLOCK_SIZE
            for block in set(table[:first]) - set(table[first:]):
                self._owners[block].discard(new.id)
