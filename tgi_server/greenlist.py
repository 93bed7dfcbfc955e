"""Which tokens a watermark favours, decided by a hash of two neighbouring ids. numpy only.

A shard computes the same hash on its device (`kernels.sampling.uniforms`) with the numbers that stand here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KEY = 15485863
"""Sets the watermark's hash apart from the noise of a choice, whose positions are all smaller."""
GAMMA = 0.5
"""The part of the vocabulary that is favoured, unless an option says otherwise (arXiv:2301.10226)."""
DELTA = 2.0
"""What is added to its scores."""

Ids = NDArray[np.int64]
_Words = NDArray[np.uint64]


def green(previous: Ids, ids: Ids, gamma: float = GAMMA) -> NDArray[np.bool_]:
    """Whether the tokens `ids` are favoured after the tokens `previous`, of shapes that fit each other."""
    return _uniforms(previous, KEY, ids) < gamma


def _uniforms(seeds: Ids, position: int, ids: Ids) -> NDArray[np.float64]:
    """Numbers in (0, 1): three rounds of SplitMix64's finaliser."""
    x = _mix(_mix(_mix(seeds.astype(np.uint64)) + np.uint64(position)) + ids.astype(np.uint64))
    return np.asarray(((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def _mix(x: _Words) -> _Words:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
