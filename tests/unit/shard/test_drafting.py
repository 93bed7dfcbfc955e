"""Who is asked for guesses, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tgi_server.shard.drafting import LONGEST_PAUSE, Drafting
from tgi_server.speculate.costs import FREE, Allotment, Costs
from tgi_server.types import Plan


class Drafter:
    """Sure of one sequence's guesses, never of another's."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def chances(self, id: int, known: Any, most: int) -> list[float]:
        self.asked.append(id)
        return [0.9 if id == 1 else 0.01] * most

    def guess(self, widths: Mapping[int, int]) -> dict[int, list[int]]:
        return {id: [5] * width for id, width in widths.items()}

    def learn(self, id: int, taken: Sequence[int]) -> None: ...
    def see(self, *args: Any) -> None: ...
    def forget(self, id: int) -> None: ...
    def seconds(self, sequences: int) -> float:
        return 0.0


class State:
    def rooms(self, ids: Sequence[int]) -> list[int]:
        return [4] * len(ids)

    def known(self, id: int) -> Any:
        return np.arange(10)


COSTS = Costs((1, 64), (0.01, 0.012))
STEPS = 200


@pytest.mark.parametrize(("own", "often"), [(FREE, True), (Costs((1,), (0.001,)), False)])
def test_who_is_asked_in_vain_is_asked_less_often_where_asking_takes_time(own: Costs, often: bool) -> None:
    drafter, state = Drafter(), State()
    drafting = Drafting(drafter, Allotment(COSTS, 4, own))
    for step in range(STEPS):
        drafts = drafting.guess(state, Plan(step, [0, 1], [1, 1], draft=4))  # type: ignore[arg-type]
        assert drafts == {1: [5] * 4}
    assert drafter.asked.count(1) == STEPS
    asked = drafter.asked.count(0)
    assert asked == STEPS if often else STEPS / LONGEST_PAUSE <= asked < STEPS / LONGEST_PAUSE + 8
    drafting.forget([0])
    drafting.guess(state, Plan(STEPS, [0, 1], [1, 1], draft=4))  # type: ignore[arg-type]
    assert drafter.asked.count(0) == asked + 1


def test_nothing_is_asked_where_nothing_may_be_guessed() -> None:
    drafter, state = Drafter(), State()
    drafting = Drafting(drafter, Allotment(COSTS, 4))
    for plan in (Plan(0, [0, 1], [1, 1]), Plan(1, [0, 1], [1, 7], draft=4)):
        assert drafting.guess(state, plan) == {}  # type: ignore[arg-type]
    steep = Drafting(drafter, Allotment(Costs((1, 2), (0.01, 0.02)), 4))
    assert steep.guess(state, Plan(2, [0, 1], [1, 1], draft=4)) == {}  # type: ignore[arg-type]
    assert drafter.asked == []
