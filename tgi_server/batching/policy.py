"""When waiting sequences are let in."""

from __future__ import annotations

from collections.abc import Collection

from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions


class PausingPolicy:
    """The documented rule: running sequences pause while a batch of waiting ones is prefilled.

    That is worth it once `waiting_served_ratio` times the number of running sequences wait and fit, or when
    `max_waiting_tokens` decode steps have passed since the last prefill. At least one decode step lies between two
    prefills. Strictly first come, first served: a sequence that does not fit keeps all later ones waiting.
    """

    def __init__(self, options: BatchingOptions) -> None:
        self._ratio = options.waiting_served_ratio
        self._patience = options.max_waiting_tokens
        self._prefill_budget = options.max_batch_prefill_tokens
        self._max_size = options.max_batch_size
        self._decode_steps = 0

    @property
    def overdue(self) -> bool:
        """True when running sequences have to pause however few wait."""
        return self._decode_steps >= self._patience

    def admit(self, waiting: Collection[Sequence], running: int, free_blocks: int) -> int:
        """How many from the head of `waiting` the next step prefills; 0 makes it a decode step."""
        count = self._eligible(waiting, running, free_blocks)
        self._decode_steps = 0 if count else self._decode_steps + 1
        return count

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
        for sequence in waiting:
            tokens -= sequence.input_length
            free_blocks -= sequence.blocks_needed
            if count >= places or tokens < 0 or free_blocks < 0:
                break
            count += 1
        return count
