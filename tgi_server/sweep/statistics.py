"""Means of repeated measurements, and how far the true ones may be from them. Stdlib only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""What 97.5 in 100 values of Student's t do not exceed, from 1 degree of freedom on."""
_Z975 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Interval:
    """The mean of some values; the true one lies within `mean` +- `half` with a confidence of 95 %.

    Attributes:
        mean: NaN where there are no values.
        half: None for fewer than two values, which tell nothing of it.
    """

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Interval:
        """Of independent values with about a normal distribution; NaNs among them are left out."""
        known = [value for value in values if not math.isnan(value)]
        return cls(fmean(known) if known else math.nan, _half(known))

    def text(self, digits: int = 1) -> str:
        """`512.3 +-4.1`, `512.3`, or `-` where there is no value."""
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.{digits}f}" + ("" if self.half is None else f" +-{self.half:.{digits}f}")


def t975(freedom: int) -> float:
    """What 97.5 in 100 values of Student's t do not exceed; `freedom` is 1 or more."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = _Z975  # the beginning of a series in 1 / freedom, which is exact to 4 digits here
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _half(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    return t975(len(values) - 1) * stdev(values) / math.sqrt(len(values))
