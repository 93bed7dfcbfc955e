"""Costs out of measured steps: least squares without negative costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tgi_server.simulate.costs import MeasuredCosts, Sample, Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_ENOUGH = 1e-10
"""How much better a fit has to become, relative to what is to be fitted, for one more cost to be taken in."""


def fit(samples: Sequence[Sample], between: float = 0.0) -> MeasuredCosts:
    """The costs that are nearest to some samples, of which there has to be one at least, in relative error.

    None is negative, and layers take no less time for more tokens.
    """
    import numpy as np  # what only reads costs needs none

    sizes = sorted({sample.shape.tokens for sample in samples})
    scale = np.array([1.0 / sample.seconds for sample in samples])
    matrix = np.array([_row(sizes, sample.shape) for sample in samples]) * scale[:, None]
    found = [float(cost) for cost in nonnegative(matrix, np.ones(len(samples)))]
    pair, position, choice = found[len(sizes) :]
    return MeasuredCosts(sizes, list(accumulate(found[: len(sizes)])), pair, position, choice, between)


def residuals(costs: MeasuredCosts, samples: Sequence[Sample]) -> list[float]:
    """By which part of the measured seconds the costs say more or less."""
    return [costs.seconds(sample.shape) / sample.seconds - 1 for sample in samples]


def _row(sizes: Sequence[int], shape: Shape) -> list[float]:
    """What is multiplied by which cost; of the layers by how much longer each size takes than the one before."""
    of_layers = [float(size <= shape.tokens) for size in sizes]
    return [*of_layers, float(shape.pairs), float(shape.context), float(shape.rows + shape.ends)]


def nonnegative(matrix: Array, target: Array) -> Array:
    """The x >= 0 with the smallest |matrix x - target|, by Lawson and Hanson's algorithm."""
    import numpy as np

    norms = np.linalg.norm(matrix, axis=0)
    matrix = matrix / np.where(norms > 0, norms, 1.0)
    free = np.zeros(matrix.shape[1], bool)
    x = np.zeros(matrix.shape[1])
    for _ in range(3 * matrix.shape[1]):
        gain = np.where(free, -np.inf, matrix.T @ (target - matrix @ x))
        if gain.max() <= _ENOUGH * np.linalg.norm(target):
            break
        free[gain.argmax()] = True
        while (solution := _solved(matrix, target, free))[free].min(initial=1.0) <= 0:
            falling = free & (solution <= 0)
            x += (solution - x) * (x[falling] / (x[falling] - solution[falling])).min()
            free &= x > 1e-15
            x[~free] = 0.0
        x = solution
    return x / np.where(norms > 0, norms, 1.0)


def _solved(matrix: Array, target: Array, free: Any) -> Array:
    import numpy as np

    x = np.zeros(matrix.shape[1])
    x[free] = np.linalg.lstsq(matrix[:, free], target, rcond=None)[0]
    return x
