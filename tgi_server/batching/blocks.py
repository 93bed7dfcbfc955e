"""Physical blocks of the paged KV cache, handed out, shared and taken back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class BlockPool:
    """The blocks `0 .. total - 1`: owned by one or more sequences, kept for what is in them, or blank.

    A block with a key is kept when its last owner gives it back, until room is needed; those that were given back
    first go first. Blank blocks given back last are handed out first, so that memory which was touched before is
    used again.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._blank = list(range(total - 1, -1, -1))
        self._owners = [0] * total
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: dict[int, None] = {}  # blocks with a key and no owner, least recently used first

    @property
    def free(self) -> int:
        """Number of blocks that nobody owns."""
        return len(self._blank) + len(self._idle)

    @property
    def used(self) -> int:
        """Number of blocks that somebody owns."""
        return self.total - self.free

    @property
    def kept(self) -> int:
        """Number of blocks that nobody owns and that are kept for what is in them."""
        return len(self._idle)

    def allocate(self, count: int) -> list[int]:
        """Hand out `count` blocks of unknown contents. Raises ValueError when fewer are free."""
        if count > self.free:
            raise ValueError(f"{count} blocks asked for, {self.free} free")
        while len(self._blank) < count:
            self._evict()
        rest = len(self._blank) - count
        blocks = self._blank[rest:][::-1]
        del self._blank[rest:]
        for block in blocks:
            self._owners[block] = 1
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Take `blocks` of one owner back, in position order. Raises ValueError for one that nobody owns."""
        for block in reversed(blocks):  # of a kept prompt the end is evicted before the start
            if not self._owners[block]:
                raise ValueError(f"block {block} is already free")
            self._owners[block] -= 1
            if self._owners[block]:
                continue
            if block in self._key_of:
                self._idle[block] = None
            else:
                self._blank.append(block)

    def keep(self, keys: Iterable[bytes], blocks: Iterable[int]) -> int:
        """Remember owned `blocks` under `keys`, until one of them has another block already; returns how many.

        Each is that of the one before it with 16 tokens more. What comes behind a block that the owner does not have
        itself would outlive it: so the first blocks of a prompt always stay longer than the ones that build on them.
        """
        kept = 0
        for key, block in zip(keys, blocks, strict=False):
            if self._block_of.setdefault(key, block) != block:
                break
            self._key_of[block] = key
            kept += 1
        return kept

    def forget(self, key: bytes, block: int) -> None:
        """What is in `block` turned out not to be what `key` says; nothing to do if that is not remembered."""
        if self._block_of.get(key) == block:
            del self._block_of[key], self._key_of[block]
            if block in self._idle:
                del self._idle[block]
                self._blank.append(block)

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks remembered under `keys`, up to the first unknown one."""
        blocks = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def idle(self, blocks: Iterable[int]) -> list[int]:
        """Those of `blocks` that nobody owns: to share them takes as many from the free ones."""
        return [block for block in blocks if block in self._idle]

    def share(self, blocks: Iterable[int]) -> None:
        """Add an owner to `blocks`, which `find` gave."""
        for block in blocks:
            self._owners[block] += 1
            self._idle.pop(block, None)

    def _evict(self) -> None:
        block = next(iter(self._idle))
        del self._idle[block]
        del self._block_of[self._key_of.pop(block)]
        self._blank.append(block)
