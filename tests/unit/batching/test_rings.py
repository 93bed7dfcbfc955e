"""Block tables of layers with a window, by brute force: what a step sees must still be there after it has written."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tgi_server.cache import kinds
from tgi_server.cache.kinds import CacheGroup, blocks_of
from tgi_server.types import BLOCK_SIZE, CacheKind

WRONG = -1
"""In a slot: what was never written, belongs to others by now, or was guessed wrong."""


class Life:
    """One sequence from its first position to its last, over slots that know which position they hold."""

    def __init__(self, draw: random.Random, window: int, prompt: int, new: int, chunk: int, draft: int) -> None:
        self.draw, self.window, self.prompt, self.draft, self.chunk = draw, window, prompt, draft, chunk
        self.length = prompt + new
        self.group = CacheGroup(CacheKind.WINDOW, window)
        total = kinds.positions(prompt, new, draft)
        count = self.group.blocks(prompt, total, chunk, 1 + draft)
        own = draw.sample(range(count + 5), count)
        self.table = np.array(kinds.table(self.group, own, prompt, total, chunk, 1 + draft))
        assert len(self.table) == blocks_of(total) and set(self.table) <= set(own)
        self.holds = np.full((count + 5) * BLOCK_SIZE, WRONG)

    def slots(self, first: int, last: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        positions = np.arange(first, last)
        result: np.ndarray[tuple[int], np.dtype[np.int64]]
        result = self.table[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        return result

    def step(self, first: int, last: int, right: int) -> None:
        """Compute [first, last), of which those from `right` on turn out to be wrong guesses."""
        self.holds[self.slots(first, last)] = np.arange(first, last)
        seen = max(0, first - self.window + 1)  # by the first query; the others see no more
        assert (self.holds[self.slots(seen, last)] == np.arange(seen, last)).all()
        self.holds[self.slots(right, last)] = WRONG

    def run(self) -> None:
        for first in range(0, self.prompt, self.chunk):
            last = min(first + self.chunk, self.prompt)
            self.step(first, last, last)
        self.give_back()
        known = self.prompt + 1
        while known < self.length:
            drafts = self.draw.randint(0, min(self.draft, self.length - known - 1))
            accepted = self.draw.randint(1, 1 + drafts)
            self.step(known - 1, known + drafts, known - 1 + accepted)
            known += accepted
        if self.draft:  # a step that was planned before the last one was known to bring so many
            self.step(self.length - 1, self.length, self.length)

    def give_back(self) -> None:
        """Others write over all that no later step sees."""
        kept = set(self.table[kinds.first_seen(self.group, self.prompt) :])
        assert len(kept) <= self.group.lasting(1 + self.draft)
        for block in set(range(len(self.holds) // BLOCK_SIZE)) - kept:
            self.holds[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] = WRONG


@pytest.mark.parametrize("seed", range(12))
def test_what_is_seen_is_never_overwritten(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(60):
        window = draw.choice([1, 2, 15, 16, 17, 18, 33, 64, draw.randint(1, 150)])
        prompt = draw.choice([1, 16, 17, window, window + 1, window + 15, window + 16, draw.randint(1, 300)])
        chunk = draw.choice([prompt, draw.randint(1, prompt), 16, 1 + prompt // 2])
        Life(draw, window, prompt, draw.randint(1, 250), chunk, draw.choice([0, 0, 1, 3, 20])).run()


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 18, 31, 32, 33, 34, 4096])
def test_a_ring_has_no_more_blocks_than_a_step_can_touch(window: int) -> None:
    for width in (1, 2, 5, 16, 17, 40):
        touched = max(
            (first + window - 1 + width - 1) // BLOCK_SIZE - first // BLOCK_SIZE + 1 for first in range(BLOCK_SIZE)
        )
        assert CacheGroup(CacheKind.WINDOW, window).lasting(width) == touched


def test_what_groups_hold() -> None:
    window = CacheGroup(CacheKind.WINDOW, 33)
    assert window.blocks(prompt=160, total=1000, chunk=160, width=1) == 10, "the whole prompt, once"
    assert window.blocks(prompt=160, total=1000, chunk=16, width=1) == 4, "32 before a chunk and 16 of it"
    assert window.blocks(prompt=1, total=1000, chunk=1, width=1) == 3
    assert window.blocks(prompt=1, total=20, chunk=1, width=1) == 2, "no more than there are"
    measures = {"prompt": 40, "total": 100, "chunk": 16, "width": 3}
    kinds_of = [CacheKind.FULL, CacheKind.STATE, CacheKind.ENCODER]
    assert [CacheGroup(kind).blocks(**measures) for kind in kinds_of] == [7, 1, 3]
    assert kinds.positions(prompt=10, max_new_tokens=7, draft=2) == 17


def test_what_cannot_be_shared() -> None:
    full, window = CacheGroup(CacheKind.FULL), CacheGroup(CacheKind.WINDOW, 20)
    for wanted in (None, True):
        assert kinds.unshared([full], wanted, 100) is None
        assert kinds.unshared([full, window], wanted, 20) is None, "the window is never left"
        for kind in (CacheKind.STATE, CacheKind.ENCODER):
            assert kinds.unshared([full, CacheGroup(kind)], wanted, 100)
    assert kinds.unshared([full, window], True, 21) is None
    assert "prefix_caching=true" in (kinds.unshared([full, window], None, 21) or "")
    assert kinds.unshared([full], False, 100) == "prefix_caching=false"
