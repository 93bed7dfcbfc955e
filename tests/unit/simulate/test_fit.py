from __future__ import annotations

import random

import numpy as np
import pytest

from tgi_server.simulate.costs import MeasuredCosts, Sample, Shape
from tgi_server.simulate.fit import fit, nonnegative


def test_least_squares_without_negative_numbers_as_scipy_has_them() -> None:
    nnls = pytest.importorskip("scipy.optimize").nnls
    chance = np.random.default_rng(0)
    for _ in range(50):
        matrix, target = chance.normal(size=(12, 6)), chance.normal(size=12)
        assert nonnegative(matrix, target) == pytest.approx(nnls(matrix, target)[0], abs=1e-8)


def test_a_column_of_nothing() -> None:
    matrix = np.array([[1.0, 0.0], [2.0, 0.0]])
    assert nonnegative(matrix, np.array([3.0, 6.0])) == pytest.approx([3.0, 0.0])


def test_costs_are_never_negative_whatever_the_noise() -> None:
    chance = random.Random(1)
    shapes = [Shape(0, 0, rows, rows * context) for rows in (1, 2, 4, 8) for context in (16, 256)]
    samples = [Sample(shape, 0.01 * chance.uniform(0.5, 2)) for shape in shapes]
    costs = fit(samples)
    assert min([*costs.layers, costs.pair, costs.position, costs.choice]) >= 0
    assert list(costs.layers) == sorted(costs.layers)
    assert all(costs.seconds(shape) > 0 for shape in shapes)


def test_sizes_between_and_beyond_the_measured_ones() -> None:
    costs = MeasuredCosts([2, 4, 8], [1.0, 2.0, 6.0], pair=0.0, position=0.0, choice=0.0)
    assert [costs.seconds(Shape(tokens, 0, 0, 0)) for tokens in (1, 2, 3, 6, 8, 10)] == [1, 1, 1.5, 4, 6, 8]
    assert costs.seconds(Shape(2, 0, 1, 0)) == costs.seconds(Shape(3, 0, 0, 0)), "they share the layers"


def test_one_sample() -> None:
    assert fit([Sample(Shape(0, 0, 1, 10), 0.5)]).seconds(Shape(0, 0, 1, 10)) == pytest.approx(0.5)
