"""How much load something bears: searches along one axis, whoever measures. Stdlib only."""

from __future__ import annotations

import math
from collections.abc import Callable

TOLERANCE = 0.05
"""How far the greatest load that is kept and the least that is not may lie apart."""
_LONGEST_STEP = 4.0
_ROUNDED = 1.002
"""Loads have four digits."""


def greatest(
    keeps: Callable[[float], bool],
    start: float,
    tolerance: float = TOLERANCE,
    enough: Callable[[], bool] = lambda: False,
    bounds: tuple[float, float] = (1e-3, 1e6),
    step: float | None = None,
) -> float | None:
    """The greatest load that is kept, up to `tolerance`; None where none is.

    From `start` on, steps that grow lead to where it is no longer (or not yet) kept; what lies between the last two
    loads is halved, as a ratio. A start that is right within the tolerance needs three probes.

    Args:
        step: the first step, a factor; by default for a start that is about right.
        keeps: whether a load is kept; for every load below one that is kept that is assumed.
        enough: whether to leave it at what is known.
        bounds: the least and the greatest load that are looked at.
    """
    first = min(max(start, bounds[0]), bounds[1])
    kept, broken = _bracket(keeps, rounded(first), step or (1 + tolerance) ** 2, enough, bounds)
    while kept is not None and broken is not None and broken > kept * (1 + tolerance) * _ROUNDED and not enough():
        middle = rounded(math.sqrt(kept * broken))
        if not kept < middle < broken:
            break
        kept, broken = (middle, broken) if keeps(middle) else (kept, middle)
    return kept


def _bracket(
    keeps: Callable[[float], bool],
    load: float,
    step: float,
    enough: Callable[[], bool],
    bounds: tuple[float, float],
) -> tuple[float | None, float | None]:
    kept: float | None = None
    broken: float | None = None
    while True:
        if keeps(load):
            kept = load
        else:
            broken = load
        if (kept is not None and broken is not None) or enough():
            break
        if load == (bounds[1] if broken is None else bounds[0]):  # there is nothing further that way
            break
        load = rounded(min(max(load * step if broken is None else load / step, bounds[0]), bounds[1]))
        step = min(_LONGEST_STEP, step**2)
    return kept, broken


def rounded(load: float) -> float:
    """To four digits: loads that are written down and read again are the same."""
    return float(f"{load:.4g}")


def peak(
    score: Callable[[int], float | None],
    start: int,
    most: int,
    gain: float = 0.05,
    enough: Callable[[], bool] = lambda: False,
) -> int | None:
    """The number of clients with the greatest score among `start` doubled or halved again and again; None: none has.

    It is doubled for as long as that brings `gain` (a part) more: further clients would only wait. Where that brings
    nothing from the beginning it is halved, for as long as that is better.

    Args:
        score: of a number of clients; None where limits are broken or the measurement failed.
        enough: whether to leave it at what is known.
    """
    known: dict[int, float] = {}

    def value(clients: int) -> float:
        if clients not in known:
            found = None if enough() and known else score(clients)
            known[clients] = -math.inf if found is None else found
        return known[clients]

    clients = start
    while value(clients) > -math.inf and 2 * clients <= most and value(2 * clients) > value(clients) * (1 + gain):
        clients *= 2
    if clients == start:
        while clients > 1 and (value(clients) == -math.inf or value(clients // 2) > value(clients)):
            clients //= 2
    return clients if value(clients) > -math.inf else None
