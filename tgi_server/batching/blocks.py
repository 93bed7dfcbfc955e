"""Physical blocks of the paged KV cache, handed out and taken back."""

from __future__ import annotations

from collections.abc import Sequence


class BlockPool:
    """The free blocks out of `0 .. total - 1`.

    Blocks given back last are handed out first, so that memory which was touched before is used again.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = list(range(total - 1, -1, -1))
        self._in_use = bytearray(total)

    @property
    def free(self) -> int:
        """Number of blocks that can be allocated."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Number of blocks that are handed out."""
        return self.total - len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Hand out `count` blocks. Raises ValueError when fewer are free."""
        rest = len(self._free) - count
        if rest < 0:
            raise ValueError(f"{count} blocks asked for, {len(self._free)} free")
        blocks = self._free[rest:][::-1]
        del self._free[rest:]
        for block in blocks:
            self._in_use[block] = 1
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Take `blocks` back. Raises ValueError for one that is not handed out."""
        for block in blocks:
            if not self._in_use[block]:
                raise ValueError(f"block {block} is already free")
            self._in_use[block] = 0
        self._free.extend(reversed(blocks))
