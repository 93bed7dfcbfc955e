"""Means and their intervals."""

from __future__ import annotations

import math

import pytest

from tgi_server.sweep.statistics import Interval, t975


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (2, 4.303), (30, 2.042), (31, 2.0395), (60, 2.0003), (10_000, 1.9602)]
)
def test_quantiles(freedom: int, expected: float) -> None:
    assert t975(freedom) == pytest.approx(expected, abs=6e-4)


def test_the_table_goes_on_in_the_series() -> None:
    values = [t975(freedom) for freedom in range(1, 60)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


def test_intervals() -> None:
    found = Interval.of([10.0, 12.0, 14.0])
    assert found.mean == 12.0
    assert found.half == pytest.approx(4.303 * 2 / math.sqrt(3))
    assert found.text() == "12.0 +-5.0"
    assert Interval.of([5.0, 5.0]).text(2) == "5.00 +-0.00"


def test_one_value_tells_nothing_of_its_error_and_none_nothing_at_all() -> None:
    assert Interval.of([7.0]) == Interval(7.0, None)
    assert Interval.of([7.0]).text() == "7.0"
    assert Interval.of([7.0, math.nan]) == Interval(7.0, None)
    assert Interval.of([]).text() == Interval.of([math.nan]).text() == "-"
