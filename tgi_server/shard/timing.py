"""Times decode steps of a model at its start, with sequences that nobody asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch

from tgi_server.cache.kinds import CacheGroup, blocks_of
from tgi_server.layers.parallel import Group
from tgi_server.shard.batch import BatchState
from tgi_server.types import CacheKind, NewSequence, Outcome, Plan, SamplingParams

STEPS = 8
"""Decode steps that one batch is good for."""


def agreed(seconds: float, group: Group, device: torch.device) -> float:
    """What the first rank measured, on all of them, which have to decide alike."""
    return float(group.broadcast(torch.tensor([seconds], dtype=torch.float64).to(device)))


class StepTimer:
    """Seconds of decode steps, the same number on every rank.

    What is in the caches does not matter, so all sequences share their first blocks.

    Args:
        runs: makes what runs plans on a state.
        groups: of layers whose caches are addressed alike, with `blocks` of each.
        start: the token that texts begin with when an encoder reads the prompts.
    """

    def __init__(
        self, runs: Callable[[BatchState], Callable[[Plan], Outcome]], groups: Sequence[CacheGroup],
        blocks: Sequence[int], group: Group, device: torch.device, start: int | None,
    ) -> None:  # fmt: skip
        self._runs = runs
        self._groups = groups
        self._blocks = blocks
        self._ranks = group
        self._device = device
        self._start = start
        self._batch: tuple[int, int, int, Callable[[Plan], Outcome]] | None = None

    def __call__(self, rows: int, context: int) -> float:
        """Seconds of a step of `rows` sequences of about `context` positions; infinity for one that fails."""
        run = self._running(rows, context)
        plan = Plan(0, [*range(rows)], [1] * rows)
        begin = time.perf_counter()
        failed = run(plan).failed
        return agreed(math.inf if failed else time.perf_counter() - begin, self._ranks, self._device)

    def _running(self, rows: int, context: int) -> Callable[[Plan], Outcome]:
        if self._batch is None or self._batch[:2] != (rows, context) or self._batch[2] == STEPS:
            self._batch = rows, context, 0, self._runs(self._begun(rows, context))
        rows, context, steps, run = self._batch
        self._batch = rows, context, steps + 1, run
        return run

    def _begun(self, rows: int, context: int) -> BatchState:
        """Sequences whose prompts are computed and that have their first token."""
        state = BatchState(context + STEPS + 2, self._device, self._groups, rows, self._start)
        ids, blocks = [*range(rows)], [self._table(index, context) for index in range(len(self._groups))]
        new = [NewSequence(id, [0] * context, blocks, SamplingParams(), context + STEPS + 1) for id in ids]
        state.update(Plan(0, ids, [context] * rows, new))
        state.advance(Plan(0, ids, [context] * rows), ids, [[0]] * rows)
        return state

    def _table(self, index: int, context: int) -> list[int]:
        if self._groups[index].kind is CacheKind.STATE:
            return [0]
        return [block % self._blocks[index] for block in range(blocks_of(context + STEPS + 1))]
