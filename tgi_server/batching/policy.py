"""When waiting sequences are let in, and what a step computes of whom."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from collections.abc import Sequence as Items
from itertools import islice
from typing import Literal, NamedTuple, Protocol

from tgi_server.batching.sequence import Sequence
from tgi_server.config.schema import BatchingOptions

Cause = Literal["backpressure", "wait_exceeded"]
"""Why waiting sequences are let in beside running ones: enough of them wait, or one has waited long enough."""


NEVER = 1 << 40
"""Steps after which something happens that does not."""


class Need(NamedTuple):
    """What a waiting sequence would take: prompt tokens to compute, and free blocks of each group of layers."""

    tokens: int
    blocks: list[int]


Needs = Callable[[Iterable[Sequence]], Iterator[Need]]
"""What each of these sequences would take if it started now, in one step with those before it."""


class Policy(Protocol):
    """Who runs when.

    Attributes:
        longest_prompt: tokens of the longest prompt it can ever let in; None when only the cache limits it.
    """

    longest_prompt: int | None

    @property
    def cause(self) -> Cause | None:
        """Why the next ones that `admit` lets in join the running; None when they go on with a prefill."""

    def under_way(self, running: Collection[Sequence]) -> Iterable[tuple[Sequence, int]]:
        """Whose prompts the next step goes on with, and by how many positions, whoever starts in it."""

    def admit(self, waiting: Collection[Sequence], running: Collection[Sequence], free_blocks: Items[int]) -> int:
        """How many from the head of `waiting` start with the next step, which computes the whole prompts of all of
        them but the last."""

    def batch(self, new: list[Sequence], running: Collection[Sequence]) -> list[tuple[Sequence, int]]:
        """The sequences of the next step and how many positions each computes; `running` includes `new`."""

    def closed(self, waiting: Collection[Sequence], running: int, free_blocks: Items[int]) -> int:
        """For how many of the next steps `admit` lets nobody in, if all `running` decode and nothing else changes."""

    def skip(self, steps: int) -> None:
        """So many steps were made in which all running sequences decoded and nobody was let in."""


class PausingPolicy:
    """The documented rule: running sequences pause while a batch of waiting ones is prefilled.

    That is worth it once `waiting_served_ratio` times the number of running sequences wait and fit, or when
    `max_waiting_tokens` decode steps have passed since the last prefill. At least one decode step lies between two
    prefills. Strictly first come, first served: a sequence that does not fit keeps all later ones waiting.

    A prefill takes at most `max_batch_prefill_tokens`, in as many steps of whole prompts as its tokens fill: the first
    prompts then have their token while the last ones are computed, which are done hardly later. Nobody decodes between
    these steps, and who arrives meanwhile may still join. A step with fewer tokens counts as a full one, so that
    prompts which trickle in cannot draw the pause out.

    Args:
        efficient_tokens: tokens that fill a step, see `ShardInfo`.
        needs: what waiting sequences would take.
    """

    def __init__(self, options: BatchingOptions, efficient_tokens: int, needs: Needs) -> None:
        self.longest_prompt: int | None = options.max_batch_prefill_tokens
        self._ratio = options.waiting_served_ratio
        self._patience = options.max_waiting_tokens
        self._prefill_budget = options.max_batch_prefill_tokens
        self._max_size = options.max_batch_size
        self._efficient_tokens = efficient_tokens
        self._needs = needs
        self._decode_steps = 0
        self._budget_left = 0  # of the prefill under way

    @property
    def cause(self) -> Cause | None:
        """Which part of the rule lets a prefill begin; None while one is under way."""
        if self._budget_left:
            return None
        return "wait_exceeded" if self._decode_steps >= self._patience else "backpressure"

    def under_way(self, running: Collection[Sequence]) -> Iterable[tuple[Sequence, int]]:
        """None: prompts are computed in one step."""
        return ()

    def admit(self, waiting: Collection[Sequence], running: Collection[Sequence], free_blocks: Items[int]) -> int:
        """How many from the head of `waiting` the next step prefills; 0 makes it a decode step."""
        if not running or (not self._budget_left and self._worthwhile(waiting, len(running), free_blocks)):
            self._budget_left = self._prefill_budget
        count = tokens = 0
        for prompt in self._fitting(waiting, len(running), free_blocks, self._budget_left):
            count, tokens = count + 1, tokens + prompt
            if tokens >= self._efficient_tokens:
                break
        self._budget_left = max(0, self._budget_left - max(tokens, self._efficient_tokens)) if count else 0
        self._decode_steps = 0 if count else self._decode_steps + 1
        return count

    def batch(self, new: list[Sequence], running: Collection[Sequence]) -> list[tuple[Sequence, int]]:
        """The new ones alone with their whole prompts, or the next position of all."""
        return [(sequence, sequence.prompt_left or 1) for sequence in new or running]

    def closed(self, waiting: Collection[Sequence], running: int, free_blocks: Items[int]) -> int:
        """See `Policy`: until enough wait and fit, or one that fits has waited long enough."""
        if self._budget_left:
            return 0
        fitting = sum(1 for _ in self._fitting(waiting, running, free_blocks, self._prefill_budget))
        if not fitting:
            return NEVER
        return max(0, self._patience - self._decode_steps) if fitting < int(running * self._ratio) else 0

    def skip(self, steps: int) -> None:
        """See `Policy`."""
        self._decode_steps += steps

    def _worthwhile(self, waiting: Collection[Sequence], running: int, free_blocks: Items[int]) -> bool:
        """The running ones, who had a step since the last prefill, are to pause for another one."""
        minimum = 0 if self.cause == "wait_exceeded" else int(running * self._ratio)
        if not self._decode_steps or len(waiting) < minimum:
            return False
        return sum(1 for _ in self._fitting(waiting, running, free_blocks, self._prefill_budget)) >= minimum

    def _fitting(
        self, waiting: Collection[Sequence], running: int, free_blocks: Items[int], budget: int
    ) -> Iterator[int]:
        """The prompt tokens to compute of each from the head of `waiting` that fits together with those before it."""
        places = len(waiting) if self._max_size is None else self._max_size - running
        for need in self._needs(islice(waiting, places)):
            budget -= need.tokens
            free_blocks = _without(free_blocks, need.blocks)
            if budget < 0 or min(free_blocks) < 0:
                return
            yield need.tokens


class ChunkedPolicy:
    """Nobody pauses: every step decodes all running sequences and takes `chunk` prompt tokens besides.

    Prompts are taken first come, first served: what is left of the oldest one, then as many waiting ones as the rest
    of the chunk reaches, so that at most one prompt is unfinished after a step.
    """

    longest_prompt: int | None = None
    cause: Cause | None = "backpressure"

    def __init__(self, chunk: int, max_size: int | None, needs: Needs) -> None:
        self._chunk = chunk
        self._max_size = max_size
        self._needs = needs

    def under_way(self, running: Collection[Sequence]) -> Iterator[tuple[Sequence, int]]:
        """Prompts that are not at their end, oldest first, as far as the chunk reaches."""
        tokens = self._chunk
        for sequence in running:
            if sequence.prompt_left:
                count = min(sequence.prompt_left, tokens)
                tokens -= count
                yield sequence, count

    def admit(self, waiting: Collection[Sequence], running: Collection[Sequence], free_blocks: Items[int]) -> int:
        """How many from the head of `waiting` get at least a part of the next step's chunk."""
        places = len(waiting) if self._max_size is None else self._max_size - len(running)
        tokens, count = self._chunk - sum(sequence.prompt_left for sequence in running), 0
        for need in self._needs(waiting):
            free_blocks = _without(free_blocks, need.blocks)
            if count >= places or tokens <= 0 or min(free_blocks) < 0:
                break
            tokens -= need.tokens
            count += 1
        return count

    def batch(self, new: list[Sequence], running: Collection[Sequence]) -> list[tuple[Sequence, int]]:
        """The next position of all who decode, and the chunk; new ones are the youngest of `running`."""
        of_prompts = dict(self.under_way(running))
        return [(sequence, of_prompts.get(sequence, 1)) for sequence in running]

    def closed(self, waiting: Collection[Sequence], running: int, free_blocks: Items[int]) -> int:
        """See `Policy`: while there is no place or no room for the first."""
        need = next(iter(self._needs(waiting)))
        fits = min(_without(free_blocks, need.blocks)) >= 0
        return 0 if fits and (self._max_size is None or running < self._max_size) else NEVER

    def skip(self, steps: int) -> None:
        """See `Policy`: nothing is counted."""


def _without(free: Items[int], taken: Items[int]) -> list[int]:
    """What is left of each group's free blocks; below 0 where too few are."""
    return [blocks - less for blocks, less in zip(free, taken, strict=True)]
