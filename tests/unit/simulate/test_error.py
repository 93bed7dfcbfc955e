from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from tgi_server.bench.summary import Percentiles, Summary
from tgi_server.simulate.error import compare, doubt, kendall_tau


def summary(rate: float, first: float = 0.5, between: float = 0.05, whole: float = 4.0) -> Summary:
    first_token, between_tokens, answer = (Percentiles(p95 / 2, p95, p95 * 2) for p95 in (first, between, whole))
    return Summary(
        clients=1, seconds=10.0, requests=8, failed=0, first_error=None, prompt_tokens=80.0, new_tokens=64.0,
        events=64.0, tokens_per_second=rate, requests_per_second=rate / 64, first_token=first_token,
        between_tokens=between_tokens, each_token=between_tokens, whole=answer,
    )  # fmt: skip


MEASURED = [summary(100.0), summary(200.0), summary(300.0), summary(400.0)]


def test_errors_of_each_quantity() -> None:
    predicted = [summary(110.0), summary(180.0), summary(300.0, first=0.4), summary(800.0, whole=4.4)]
    errors = compare(MEASURED, predicted)
    assert errors.points == 4
    assert errors.relative["tokens/s"] == pytest.approx([0.1, -0.1, 0.0, 1.0])
    assert errors.relative["first token p95"] == pytest.approx([0, 0, -0.2, 0])
    assert errors.medians()["tokens/s"] == pytest.approx(0.1)
    assert errors.within() == {
        "tokens/s": 3, "first token p95": 3, "between tokens p95": 4, "whole answer p95": 4,
    }  # fmt: skip
    assert errors.all_within() == 2
    assert errors.taus["tokens/s"] == pytest.approx(1.0)
    assert doubt(errors) is None


def test_a_simulator_that_is_far_off_says_that_it_does_not_know() -> None:
    far = compare(MEASURED, [replace(each, tokens_per_second=each.tokens_per_second * 1.31) for each in MEASURED])
    said = "the simulator does not know: median error of tokens/s is 31 %, more than 15 %"
    assert doubt(far) == said
    assert doubt(far, tolerance=0.5) is None
    assert doubt(compare([], [])) is not None
    nothing = [replace(each, first_token=Percentiles(math.nan, math.nan, math.nan)) for each in MEASURED]
    assert "first token p95 could not be compared" in str(doubt(compare(MEASURED, nothing)))


def test_unequal_numbers_of_points_are_a_mistake() -> None:
    with pytest.raises(ValueError):
        compare(MEASURED, MEASURED[1:])


def test_kendalls_tau_as_scipy_has_it() -> None:
    kendalltau = pytest.importorskip("scipy.stats").kendalltau
    chance = random.Random(0)
    for _ in range(30):
        first, second = ([float(chance.randint(0, 9)) for _ in range(12)] for _ in range(2))
        assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic)


def test_kendalls_tau_at_its_ends() -> None:
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    assert math.isnan(kendall_tau([1, 2, 3], [5, 5, 5]))
    assert math.isnan(kendall_tau([1], [2]))
