"""Whether two points differ by more than their repeats do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import variance

from tgi_server.sweep.statistics import Interval, t975


def difference(values: Sequence[float], others: Sequence[float]) -> Interval:
    """How much larger the mean of `values` is than that of `others`, by Welch's t; NaNs are left out.

    Degrees of freedom are rounded down, which makes the interval wider rather than narrower.
    """
    groups = [[value for value in group if not math.isnan(value)] for group in (values, others)]
    mean = Interval.of(groups[0]).mean - Interval.of(groups[1]).mean
    if min(map(len, groups)) < 2:
        return Interval(mean, None)
    errors = [variance(group) / len(group) for group in groups]
    if not sum(errors):
        return Interval(mean, 0.0)
    spread = sum(error**2 / (len(group) - 1) for error, group in zip(errors, groups, strict=True))
    freedom = math.floor(sum(errors) ** 2 / spread + 1e-9)
    return Interval(mean, t975(freedom) * math.sqrt(sum(errors)))
