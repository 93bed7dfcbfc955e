"""When waiting sequences are let in, and what a step computes of whom."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions


class Need(NamedTuple):
    """What a waiting sequence would take: prompt tokens to compute and free blocks."""

    tokens: int
    blocks: int


class Policy(Protocol):
    """Who runs when.

    Attributes:
        longest_prompt: tokens of the longest prompt it can ever let in; None when only the cache limits it.
    """

    longest_prompt: int | None

    @property
    def overdue(self) -> bool:
        """True when waiting ones are let in however few they are."""

    def admit(self, waiting: Collection[Sequence], running: Collection[Sequence], free_blocks: int) -> int:
        """How many from the head of `waiting` start with the next step."""

    def batch(self, new: list[Sequence], running: Collection[Sequence]) -> list[tuple[Sequence, int]]:
        """The sequences of the next step and how many positions each computes; `running` includes `new`."""


class PausingPolicy:
    """The documented rule: running sequences pause while a batch of waiting ones is prefilled.

    That is worth it once `waiting_served_ratio` times the number of running sequences wait and fit, or when
    `max_waiting_tokens` decode steps have passed since the last prefill. At least one decode step lies between two
    prefills. Strictly first come, first served: a sequence that does not fit keeps all later ones waiting.
    """

    def __init__(self, options: BatchingOptions, need: Callable[[Sequence], Need]) -> None:
        self.longest_prompt: int | None = options.max_batch_prefill_tokens
        self._ratio = options.waiting_served_ratio
        self._patience = options.max_waiting_tokens
        self._prefill_budget = options.max_batch_prefill_tokens
        self._max_size = options.max_batch_size
        self._need = need
        self._decode_steps = 0

    @property
    def overdue(self) -> bool:
        """True when running sequences have to pause however few wait."""
        return self._decode_steps >= self._patience

    def admit(self, waiting: Collection[Sequence], running: Collection[Sequence], free_blocks: int) -> int:
        """How many from the head of `waiting` the next step prefills; 0 makes it a decode step."""
        count = self._eligible(waiting, len(running), free_blocks)
        self._decode_steps = 0 if count else self._decode_steps + 1
        return count

    def batch(self, new: list[Sequence], running: Collection[Sequence]) -> list[tuple[Sequence, int]]:
        """The new ones alone with their whole prompts, or the next position of all."""
        return [(sequence, sequence.prompt_left or 1) for sequence in new or running]

    def _eligible(self, waiting: Collection[Sequence], running: int, free_blocks: int) -> int:
        if running and self._decode_steps == 0:
            return 0
        minimum = 0 if self.overdue else int(running * self._ratio)
        if not waiting or len(waiting) < minimum:
            return 0
        count = self._fitting(waiting, running, free_blocks)
        return count if count >= minimum else 0

    def _fitting(self, waiting: Collection[Sequence], running: int, free_blocks: int) -> int:
        places = len(waiting) if self._max_size is None else self._max_size - running
        tokens, count = self._prefill_budget, 0
        for need in map(self._need, waiting):
            tokens -= need.tokens
            free_blocks -= need.blocks
            if count >= places or tokens < 0 or free_blocks < 0:
                break
            count += 1
        return count


class ChunkedPolicy:
    """Nobody pauses: every step decodes all running sequences and takes `chunk` prompt tokens besides.

    Prompts are taken first come, first served: what is left of the oldest one, then as many waiting ones as the rest
    of the chunk reaches, so that at most one prompt is unfinished after a step.
    """

    longest_prompt: int | None = None
    overdue = False

    def __init__(self, chunk: int, max_size: int | None, need: Callable[[Sequence], Need]) -> None:
        self._chunk = chunk
        self._max_size = max_size
        self._need = need

    def admit(self, waiting: Collection[Sequence], running: Collection[Sequence], free_blocks: int) -> int:
        """How many from the head of `waiting` get at least a part of the next step's chunk."""
        places = len(waiting) if self._max_size is None else self._max_size - len(running)
        tokens, count = self._chunk - sum(sequence.prompt_left for sequence in running), 0
        for need in map(self._need, waiting):
            free_blocks -= need.blocks
            if count >= places or tokens <= 0 or free_blocks < 0:
                break
            tokens -= need.tokens
            count += 1
        return count

    def batch(self, new: list[Sequence], running: Collection[Sequence]) -> list[tuple[Sequence, int]]:
        """The next position of all who decode, and the chunk; new ones are the youngest of `running`."""
        batch, tokens = [], self._chunk
        for sequence in running:
            if sequence.prompt_left:
                count = min(sequence.prompt_left, tokens)
                tokens -= count
                batch.append((sequence, count))
            else:
                batch.append((sequence, 1))
        return batch
