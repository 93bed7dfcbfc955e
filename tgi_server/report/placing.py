"""Where words go in a picture, so that none covers another."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_WIDE = 34
"""Letters below an axis that fit beside each other."""
_LONGEST = 20
"""Letters of each of them; the rest is cut off."""
_MOST = 12
"""Names below an axis; where there are more some are left out."""
_AROUND = ((5, 4), (5, -11), (-5, 4), (-5, -11), (0, 7), (0, -14), (9, -3), (-9, -3))
"""Where a name may stand beside its point, in points of print; the nicest first."""


def shortened(text: str, longest: int) -> str:
    """Without what no picture can show, and cut off."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def round_ticks(axes: Axes, x: bool = False, y: bool = True) -> None:
    """Few ticks at round numbers on the y axis, or on both, or on x alone."""
    from matplotlib.ticker import MaxNLocator

    for axis in ([axes.yaxis] if y else []) + ([axes.xaxis] if x else []):
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def ticks_at(axes: Axes, values: Collection[float]) -> None:
    """Ticks of a logarithmic x axis at those of the values whose labels do not touch; the largest has one."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values), max(values)
    span = math.log(high / low) or 1.0
    kept: list[float] = []
    for value in sorted(values, reverse=True):
        letters = (len(f"{value:g}") + len(f"{kept[-1]:g}")) / 2 + 1 if kept else 0
        if not kept or math.log(kept[-1] / value) / span > 0.016 * letters:
            kept.append(value)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if low == high:
        axes.set_xlim(low / 2, high * 2)


def few_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Ticks of an x axis at those of the values, which rise, that are a twentieth of its length apart."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    spots = axes.transAxes.inverted().transform(axes.transData.transform([(value, 1.0) for value in values]))[:, 0]
    kept: list[tuple[float, float]] = []
    for value, spot in zip(values, spots, strict=True):
        if not kept or spot - kept[-1][1] > 0.05:
            kept.append((value, spot))
    axes.xaxis.set_major_locator(FixedLocator([value for value, _ in kept]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def powers(axes: Axes) -> None:
    """Ticks of a logarithmic y axis at powers of ten, as whole numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(base=10))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def name_places(axes: Axes, names: Sequence[str]) -> None:
    """Names below the places 0, 1, ..., slanted where they are long; of many only some."""
    step = -(-len(names) // _MOST)
    shown = [shortened(name, _LONGEST) for name in names[::step]]
    axes.set_xticks(range(0, len(names), step), shown)
    if sum(map(len, shown)) > _WIDE:
        for label in axes.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")


def honest(axes: Axes, values: Sequence[float]) -> None:
    """Limits of y that do not make much of small differences: from 0, or a quarter of the largest value at least."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        axes.set_ylim(0, 1)
        return
    low, high = min(known), max(known)
    span = max(high - low, 0.25 * high) or 1.0
    middle = (low + high) / 2
    bottom, top = middle - 0.6 * span, middle + 0.6 * span
    axes.set_ylim(0 if low < high / 2 else max(bottom, 0), max(top, 1.05 * high))


def name_points(axes: Axes, points: Mapping[str, tuple[float, float]], order: Sequence[str]) -> None:
    """Names beside their points as far as there is room; those first in `order` choose first."""
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    spots = {name: axes.transData.transform(spot) for name, spot in points.items()}
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in spots.values()]
    taken += _along(axes)
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent())
    for name in dict.fromkeys(order):
        _name(axes, name, points[name], taken)


def _along(axes: Axes) -> Iterator[Bbox]:
    """Small boxes along the lines, which names should not lie on either."""
    from matplotlib.transforms import Bbox

    for line in axes.get_lines():
        if line.get_linestyle() == "None":
            continue
        corners = axes.transData.transform(line.get_xydata())
        for (x, y), (to_x, to_y) in pairwise(corners):
            steps = max(2, math.ceil(math.hypot(to_x - x, to_y - y) / 3))
            for part in (number / steps for number in range(steps)):
                yield Bbox.from_bounds(x + part * (to_x - x) - 1, y + part * (to_y - y) - 1, 2, 2)


def _name(axes: Axes, name: str, spot: tuple[float, float], taken: list[Bbox]) -> None:
    """At the first place around the point where nothing is; nowhere when there is none."""
    for x, y in _AROUND:
        side = "left" if x > 0 else "right" if x < 0 else "center"
        label: Annotation = axes.annotate(
            shortened(name, _LONGEST), spot, (x, y), textcoords="offset points", ha=side, fontsize=8
        )
        label.set_in_layout(False)
        box = label.get_window_extent()
        if not box.count_overlaps(taken) and axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1):
            taken.append(box)
            return
        label.remove()
