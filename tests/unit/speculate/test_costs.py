"""How many guesses pay, by what steps cost."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from tgi_server.speculate.costs import FEWEST_GAINED, Allotment, Costs

FLAT = Costs((1, 8, 64), (0.010, 0.011, 0.050))
"""A few rows cost next to nothing more; then all cost the same."""
STEEP = Costs((1, 2, 4), (0.01, 0.02, 0.04))


def speed(costs: Costs, batch: int, chances: dict[int, list[float]], widths: dict[int, int], context: int = 0) -> float:
    tokens, rows = float(batch), batch + sum(widths.values())
    for id, width in widths.items():
        for count in range(1, width + 1):
            tokens += math.prod(chances[id][:count])
    seen = (len(chances) + sum(widths.values())) * context
    return tokens / float(costs.of(np.array([rows]))[0] + seen * costs.position)


def test_a_step_between_two_that_were_measured_costs_something_between() -> None:
    assert FLAT.of(np.array([1, 8, 36, 64, 128])).tolist() == pytest.approx([0.010, 0.011, 0.0305, 0.050, 0.100])


def test_all_guesses_pay_where_rows_are_free_and_none_where_they_are_not() -> None:
    sure = {0: [0.9] * 7}
    assert Allotment(FLAT, 7).widths(sure, {0: 0}, 1) == {0: 7}
    assert Allotment(STEEP, 7).widths(sure, {0: 0}, 1) == {}
    assert Allotment(FLAT, 7).widths({0: [0.02] * 7}, {0: 0}, 1) == {}, "hardly any is right"
    assert Allotment(FLAT, 7).widths({}, {}, 1) == {}
    assert Allotment(FLAT, 7).widths({0: []}, {0: 0}, 1) == {}


def test_the_best_guesses_of_all_sequences_share_the_rows() -> None:
    widths = Allotment(FLAT, 7).widths({3: [0.95] * 7, 5: [0.1] * 7, 9: []}, {3: 0, 5: 0, 9: 0}, 3)
    assert widths[3] >= 4 and 9 not in widths and widths.get(5, 0) <= 1


def test_no_other_number_of_guesses_makes_more_tokens_a_second() -> None:
    draw = random.Random(3)
    for _ in range(60):
        costs = Costs((1, 2, 4, 8), tuple(itertools.accumulate(draw.uniform(0.001, 0.01) for _ in range(4))), 1e-6)
        chances = {id: [draw.random() for _ in range(draw.randrange(4))] for id in range(3)}
        chosen = Allotment(costs, 3).widths(chances, dict.fromkeys(chances, 100), 3)
        every = [
            dict(enumerate(widths)) for widths in itertools.product(*(range(len(c) + 1) for c in chances.values()))
        ]
        best = max(speed(costs, 3, chances, widths, 100) for widths in every)
        plain = speed(costs, 3, chances, {}, 100)
        assert speed(costs, 3, chances, chosen, 100) == pytest.approx(best if best >= FEWEST_GAINED * plain else plain)


def test_long_contexts_and_a_drafter_that_takes_time_make_guesses_dearer() -> None:
    chances = {0: [0.8, 0.7, 0.6, 0.5]}
    near, far = (
        sum(Allotment(Costs((1, 64), (0.01, 0.02), 1e-6), 4).widths(chances, {0: n}, 1).values()) for n in (10, 20000)
    )
    assert near == 4 and far < near
    slow = Allotment(FLAT, 4, Costs((1, 2), (0.5, 1.0)))
    assert slow.widths(chances, {0: 0}, 1) == {}
    assert "of guessing by texts: 1: 500, 2: 1e+03" in str(slow)


def test_batches_for_which_no_guess_could_pay_are_known_beforehand() -> None:
    allotment = Allotment(Costs((1, 8, 16, 32), (0.01, 0.01, 0.02, 0.04)), 4)
    assert allotment.may_pay(1) and allotment.may_pay(4) and not allotment.may_pay(64)
    assert allotment.least(1) < allotment.least(7)
    assert "not from" in str(allotment) and "16: 20" in str(allotment)
    assert "never pay" in str(Allotment(STEEP, 4))


def test_what_is_measured_is_the_best_of_several_and_ends_in_time() -> None:
    calls: list[tuple[int, int]] = []

    def step(rows: int, context: int) -> float:
        calls.append((rows, context))
        return 0.01 + rows * 0.001 + rows * context * 1e-6 + (1.0 if len(calls) % 3 == 1 else 0.0)

    costs = Costs.measure(step, (10, 1010), most=32)
    assert costs.rows == (1, 2, 4, 8, 16, 32)
    assert costs.position == pytest.approx(1e-6)
    assert costs.seconds == pytest.approx([0.01 + rows * 0.001 for rows in costs.rows])
    calls.clear()
    assert Costs.measure(lambda rows, context: 10.0, (10, 10)).rows == (1, 2)


def test_guesses_pay_where_a_slow_step_costs_the_same_with_more_rows() -> None:
    """As of large models, which wait for memory."""
    for seconds in (0.001, 0.3, 1.0, 2.0):
        costs = Costs.measure(lambda rows, context, each=seconds: each, (10, 10))  # type: ignore[misc]
        assert Allotment(costs, 8).widths({0: [0.9] * 8}, {0: 10}, 1) == {0: 8}


def test_a_step_that_fails_ends_the_measurement() -> None:
    costs = Costs.measure(lambda rows, context: math.inf if rows > 4 or context > 10 else 0.01, (10, 500))
    assert costs == Costs((1, 2, 4), (0.01, 0.01, 0.01))


def test_asking_counts_where_it_takes_a_share_of_a_step() -> None:
    slow = Costs((1, 32), (0.0001, 0.002))
    assert not Allotment(FLAT, 4, Costs((1, 32), (1e-6, 3e-5))).dear(32)
    assert Allotment(FLAT, 4, slow).dear(1) and Allotment(FLAT, 4, slow).dear(32)
