"""Line charts as SVG: `python -m tgi_server.bench.plot out.svg FILE ...` draws tokens/s against clients.

A file is NAME=BENCH.json, a line with that name, or what `compare --json` wrote, a line for each of its servers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import orjson

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 500, 330
"""The part within the axes, in units of the picture."""
_LEFT, _TOP, _BELOW = 80, 40, 50
_LETTER = 8
"""No less than the mean width of a letter."""
_USAGE = "Usage: plot-clients OUT.svg NAME=BENCH.json|COMPARED.json..."
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what `job=bench output=...` and `compare --json` wrote; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if "--help" in words or len(words) < 2:
        print(_USAGE, file=sys.stdout if "--help" in words else sys.stderr)
        return 0 if "--help" in words else 2
    lines: dict[str, Points] = {}
    try:
        for word in words[1:]:
            more = _read(word)
            if twice := lines.keys() & more.keys():
                raise ValueError(f"{word}: there is a line {min(twice)} already")
            lines |= more
        text = chart("Throughput", "clients", "output tokens a second", lines)
        Path(words[0]).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _read(word: str) -> Mapping[str, Points]:
    """The lines of NAME=FILE or FILE. Raises OSError, and ValueError when it is not such a file."""
    name, named, path = word.rpartition("=")
    if not path or (named and not name):
        raise ValueError(f"{word}: files are written NAME=BENCH.json or COMPARED.json")
    try:
        content = orjson.loads(Path(path).read_bytes())
        servers = {name: content}.items() if named else content["servers"].items()
        if not servers:
            raise ValueError("nothing was compared")
        return {key: _rates(value) for key, value in servers}
    except (ValueError, LookupError, TypeError, AttributeError):
        writer = "job=bench" if named else "compare --json"
        raise ValueError(f"{path} is not a file that {writer} has written") from None


def _rates(content: Mapping[str, Any]) -> Points:
    rates = [(float(run["clients"]), float(run["tokens_per_second"])) for run in content["runs"]]
    if not rates or any(clients <= 0 or rate < 0 for clients, rate in rates):
        raise ValueError("nothing was measured")
    return rates


def chart(title: str, x_label: str, y_label: str, lines: Mapping[str, Points]) -> str:
    """An SVG picture of lines with names; x is logarithmic and y starts at 0.

    Args:
        lines: at least one point in all, each with a positive x.
    """
    xs = sorted({x for points in lines.values() for x, _ in points})
    steps = _steps(max(y for points in lines.values() for _, y in points))
    place = _Place(xs[0], xs[-1], steps[-1])
    bottom, centre = _TOP + _HEIGHT, _LEFT + _WIDTH / 2
    parts = [_text(centre, _TOP / 2, title, "middle"), _text(centre, bottom + _BELOW - 10, x_label, "middle")]
    parts.append(_text(18, _TOP + _HEIGHT / 2, y_label, "middle", turned=True))
    for y in steps:
        parts.append(_line(_LEFT, place.y(y), _LEFT + _WIDTH, place.y(y), "#dddddd"))
        parts.append(_text(_LEFT - 8, place.y(y) + 4, f"{y:g}", "end"))
    for x in _apart(xs, place):
        parts.append(_line(place.x(x), bottom, place.x(x), bottom + 5, "#888888"))
        parts.append(_text(place.x(x), bottom + 20, f"{x:g}", "middle"))
    for number, (name, points) in enumerate(lines.items()):
        parts += _curve(place, name, sorted(points), _COLOURS[number % len(_COLOURS)], number)
    width = _LEFT + _WIDTH + 50 + _LETTER * max(map(len, lines))
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + _BELOW}" font-family="sans-serif"'
    return "\n".join(
        [f'{frame} font-size="13">', '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"]
    )


class _Place:
    """Where values are on the picture."""

    def __init__(self, first: float, last: float, top: float) -> None:
        self._first, self._top = first, top
        self._span = math.log(last / first) or 1.0

    def x(self, value: float) -> float:
        return _LEFT + _WIDTH * math.log(value / self._first) / self._span

    def y(self, value: float) -> float:
        return _TOP + _HEIGHT - _HEIGHT * value / self._top


def _apart(xs: Sequence[float], place: _Place) -> list[float]:
    """Those of the sorted values whose labels do not touch each other; the largest is always one of them."""
    kept: list[float] = []
    for x in reversed(xs):
        if not kept or place.x(kept[-1]) - place.x(x) > _LETTER * (len(f"{kept[-1]:g}") + len(f"{x:g}")) / 2 + 4:
            kept.append(x)
    return kept


def _steps(largest: float) -> list[float]:
    """Round values from 0 to at least the largest one."""
    size = 10.0 ** math.floor(math.log10(largest)) if largest > 0 else 1.0
    step = next(size * part for part in (0.2, 0.5, 1.0, 2.0) if largest <= 6 * size * part)
    return [step * number for number in range(math.ceil(largest / step) + 1)] if largest > 0 else [0.0, 1.0]


def _curve(place: _Place, name: str, points: Points, colour: str, number: int) -> list[str]:
    spots = [(place.x(x), place.y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in spots]
    below = _TOP + 20.0 * number
    right = _LEFT + _WIDTH
    key = _line(right + 12, below, right + 32, below, colour, 3)
    line = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    return [line, *dots, key, _text(right + 38, below + 4, name, "start")]


def _text(x: float, y: float, text: str, anchor: str, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


if __name__ == "__main__":
    sys.exit(main())
