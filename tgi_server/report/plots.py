"""Pictures as SVG, by matplotlib: for pages, whose colours they take on, and for files.

The same numbers give the same text of a picture. Words in it stay words.
"""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from tgi_server.report import placing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
Scale = Literal["linear", "log", "symlog"]
Spots = Mapping[str, tuple[float, float]]
"""Points by name."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by people who do not see all colours (Okabe and Ito, 2008)."""
_MARKS = "osD^vP"
_INK = "#0a0b0c"
"""Stands for the colour of text, which a page decides."""
_STYLE: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.sans-serif": ["DejaVu Sans"], "font.size": 9,
    "axes.titlesize": 10, "axes.unicode_minus": False, "axes.formatter.useoffset": False, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "grid.alpha": 0.15, "grid.linewidth": 0.8, "grid.color": _INK, "text.color": _INK, "axes.labelcolor": _INK,
    "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "legend.frameon": False, "lines.markersize": 5,
}  # fmt: skip
_SIZE = (4.6, 3.0)
"""Inches, of a picture in a page."""
_LONGEST = 60
"""Letters of a title or a line's name; the rest is cut off."""


def available() -> bool:
    """Whether matplotlib is installed."""
    try:
        return importlib.util.find_spec("matplotlib") is not None
    except ValueError:  # something else took its place
        return False


def lines(
    title: str, x_label: str, y_label: str, curves: Mapping[str, Points], x_scale: Scale = "log",
    y_scale: Scale = "linear",
) -> str:  # fmt: skip
    """A picture for a file: lines with names, on white.

    Args:
        curves: at least one point in all, each with positive numbers where a scale is logarithmic.
        x_scale: with ticks at the points, or at round numbers where it is linear; `symlog` is linear from 0 to 1.
        y_scale: from 0 where it is linear.
    """
    with _figure(title, (6.4, 4.0)) as (figure, axes):
        _name(axes, title, x_label, y_label)
        axes.set_xscale(x_scale, **({"linthresh": 1} if x_scale == "symlog" else {}))
        for number, (name, points) in enumerate(curves.items()):
            axes.plot(*zip(*sorted(points), strict=True), label=placing.shortened(name, _LONGEST), **_look(number))
        _scale_y(axes, y_scale, [y for points in curves.values() for _, y in points])
        if y_scale == "linear" or x_scale == "linear":
            placing.round_ticks(axes, x=x_scale == "linear", y=y_scale == "linear")
        places = {x for points in curves.values() for x, _ in points}
        if x_scale == "log":
            placing.ticks_at(axes, places)
        elif x_scale == "symlog":
            placing.few_ticks(axes, sorted(places))
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
        return _svg(figure, title, page=False)


def _scale_y(axes: Axes, scale: Scale, values: Sequence[float]) -> None:
    axes.set_yscale(scale)
    if scale == "log":
        placing.powers(axes)
        return
    axes.set_ylim(bottom=0)
    if not any(values):
        axes.set_ylim(0, 1)


def effect(title: str, label: str, unit: str, means: Mapping[str, float], single: Mapping[str, Sequence[float]]) -> str:
    """Values of a setting beside each other: their means as a line, single points lightly.

    Args:
        label: the setting's name.
        means: by value, in their order; NaN where there is none.
        single: the points of each value.
    """
    with _figure(title, _SIZE) as (figure, axes):
        _name(axes, title, label, unit)
        for place, values in enumerate(single.values()):
            axes.plot([place] * len(values), list(values), "o", color=COLOURS[0], alpha=0.5, markersize=4, mew=0)
        axes.plot(range(len(means)), list(means.values()), color=COLOURS[1], marker="D")
        axes.set_xlim(-0.5, len(means) - 0.5)
        placing.name_places(axes, list(means))
        placing.round_ticks(axes)
        placing.honest(axes, [*means.values(), *(value for values in single.values() for value in values)])
        return _svg(figure, title)


def trade(
    title: str, x_label: str, y_label: str, points: Mapping[str, tuple[float, float]], front: Sequence[str]
) -> str:
    """Points by name in a plane, those of `front` joined and set off.

    Args:
        front: names in the order in which they are joined.
    """
    with _figure(title, _SIZE) as (figure, axes):
        _name(axes, title, x_label, y_label)
        rest = [spot for name, spot in points.items() if name not in front]
        if rest:
            axes.plot(*zip(*rest, strict=True), "o", color=COLOURS[0], label="other points")
        if front:
            best = [points[name] for name in front]
            axes.plot(*zip(*best, strict=True), color=COLOURS[1], marker="D", label="Pareto front")
        axes.margins(0.12)
        placing.round_ticks(axes, x=True)
        axes.legend(loc="best", fontsize=8)
        placing.name_points(axes, points, [*front, *points])
        return _svg(figure, title)


def agreement(title: str, unit: str, pairs: Spots, around: float) -> str:
    """Measured against simulated, with the line where both are equal and what lies within `around` of it."""
    with _figure(title, _SIZE) as (figure, axes):
        _name(axes, title, f"measured, {unit}", f"simulated, {unit}")
        values = [value for pair in pairs.values() for value in pair]
        low, high = 0.9 * min(values), 1.1 * max(values) or 1.0
        ends = [low, high]
        below, above = [(1 - around) * end for end in ends], [(1 + around) * end for end in ends]
        axes.plot(ends, ends, color=_INK, alpha=0.6, linewidth=1, label="equal")
        axes.fill_between(ends, below, above, color=_INK, alpha=0.08, linewidth=0, label=f"± {100 * around:.0f} %")
        axes.plot(*zip(*pairs.values(), strict=True), "o", color=COLOURS[0])
        placing.round_ticks(axes, x=True)
        axes.set(xlim=(low, high), ylim=(low, high))
        axes.legend(loc="upper left", fontsize=8)
        placing.name_points(axes, pairs, list(pairs))
        return _svg(figure, title)


def _name(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    title, x_label, y_label = (placing.shortened(text, _LONGEST) for text in (title, x_label, y_label))
    axes.set(title=title, xlabel=x_label, ylabel=y_label)


def _look(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": _MARKS[number % len(_MARKS)]}


@contextmanager
def _figure(title: str, size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes, apart from all that a process draws otherwise."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # whoever shows the picture has other fonts
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": title})
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def _svg(figure: Figure, title: str, page: bool = True) -> str:
    """The picture's element alone; colours of text are those around it in a page, else it is on white."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    tight = {} if page else {"bbox_inches": "tight"}
    figure.savefig(file, format="svg", metadata=nothing, transparent=page, **tight)
    text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", file.getvalue(), flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r'(<[^<>]*?) id="([^"]*)"', lambda found: found[0] if found[2] in used else found[1], text)
    label = f' role="img" aria-label="{escape(placing.shortened(title, _LONGEST))}"'
    sized = re.compile(r'^(<svg[^>]*?) width="[^"]*" height="[^"]*"')
    assert sized.match(text), text[:200]
    text = sized.sub(lambda found: found[1] + label, text)
    return text.replace(_INK, "currentColor" if page else "#222222")
