"""Guesses of a shard: the drafter is asked, the costs decide how many pay, and the drafter is told what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from tgi_server.shard.batch import BatchState, StepInputs
from tgi_server.speculate.base import Drafter, Drafts
from tgi_server.speculate.costs import Allotment
from tgi_server.types import Plan

LONGEST_PAUSE = 16
"""Steps."""


class Drafting:
    """What is guessed in each step. All ranks do the same."""

    def __init__(self, drafter: Drafter, allotment: Allotment) -> None:
        self._drafter = drafter
        self._allotment = allotment
        self._asked = frozenset[int]()
        self._steps = 0
        self._pauses: dict[int, tuple[int, int]] = {}  # how long they are, and in which step they end

    def forget(self, ids: Sequence[int]) -> None:
        """Sequences are over."""
        for id in ids:
            self._drafter.forget(id)
            self._pauses.pop(id, None)

    def guess(self, state: BatchState, plan: Plan) -> Drafts:
        """What is guessed of the sequences that decode; nothing in a step that computes prompts.

        Never beyond the last token of a sequence.
        """
        self._asked = frozenset()
        batch = len(plan.ids)
        if not plan.draft or max(plan.counts) > 1 or not self._allotment.may_pay(batch):
            return {}
        self._steps += 1
        rooms = {id: room for id, room in zip(plan.ids, state.rooms(plan.ids), strict=True) if room and self._due(id)}
        chances = {id: self._drafter.chances(id, state.known(id), min(plan.draft, room)) for id, room in rooms.items()}
        self._asked = frozenset(chances)
        contexts = {id: len(state.known(id)) for id in chances}
        widths = self._allotment.widths(chances, contexts, batch)
        if self._allotment.dear(batch):
            self._pause(widths)
        return self._drafter.guess(widths) if widths else {}

    def _due(self, id: int) -> bool:
        return self._steps >= self._pauses.get(id, (0, 0))[1]

    def _pause(self, widths: Mapping[int, int]) -> None:
        """Who was asked in vain is asked again after a pause, each twice as long as the one before."""
        for id in self._asked:
            steps = 1 if id in widths else min(LONGEST_PAUSE, 2 * self._pauses.get(id, (1, 0))[0])
            self._pauses[id] = steps, self._steps + steps

    def learn(self, ids: Sequence[int], inputs: StepInputs, taken: Sequence[Sequence[int]], hidden: Tensor) -> None:
        """The new tokens of the sequences `ids`."""
        for id, tokens in zip(ids, taken, strict=True):
            if id in self._asked:
                self._drafter.learn(id, tokens)
        rows = [first + len(tokens) - 1 for first, tokens in zip(inputs.deciding, taken, strict=True)]
        self._drafter.see(ids, hidden, rows)
