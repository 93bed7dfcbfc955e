"""Line charts as SVG: `python -m tgi_server.bench.plot out.svg NAME=bench.json ...` draws tokens/s against clients."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import orjson

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 420, 70, 50, 40, 150
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the files that `job=bench output=...` wrote; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) < 2 or not all("=" in word for word in words[1:]):
        print("Usage: plot-clients OUT.svg NAME=BENCH.json [NAME=BENCH.json]...", file=sys.stderr)
        return 2
    try:
        lines = {name: _rates(Path(path)) for name, _, path in (word.partition("=") for word in words[1:])}
        Path(words[0]).write_text(chart("Output tokens a second", "clients", lines), encoding="utf-8")
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except (ValueError, KeyError, TypeError):
        print("Error: a file is none that job=bench has written", file=sys.stderr)
        return 1
    return 0


def _rates(path: Path) -> Points:
    return [(run["clients"], run["tokens_per_second"]) for run in orjson.loads(path.read_bytes())["runs"]]


def chart(title: str, x_label: str, lines: Mapping[str, Points]) -> str:
    """An SVG picture of lines with names; x is logarithmic and y starts at 0.

    Args:
        lines: at least one point in all, each with a positive x.
    """
    xs = sorted({x for points in lines.values() for x, _ in points})
    steps = _steps(max(y for points in lines.values() for _, y in points))
    place = _Place(xs[0], xs[-1], steps[-1])
    parts = [_text(_WIDTH / 2, _TOP / 2, title, "middle"), _text(_WIDTH / 2, _HEIGHT - 8, x_label, "middle")]
    for y in steps:
        parts.append(_line(_LEFT, place.y(y), _WIDTH - _RIGHT, place.y(y), "#dddddd"))
        parts.append(_text(_LEFT - 8, place.y(y) + 4, f"{y:g}", "end"))
    parts += [_text(place.x(x), _HEIGHT - _BOTTOM + 20, f"{x:g}", "middle") for x in xs]
    for number, (name, points) in enumerate(lines.items()):
        parts += _curve(place, name, sorted(points), _COLOURS[number % len(_COLOURS)], number)
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif"'
    return "\n".join(
        [f'{frame} font-size="13">', '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"]
    )


class _Place:
    """Where values are on the picture."""

    def __init__(self, first: float, last: float, top: float) -> None:
        self._first, self._top = first, top
        self._span = math.log(last / first) or 1.0

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(value / self._first) / self._span

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / self._top


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
    key = _line(_WIDTH - _RIGHT + 12, below, _WIDTH - _RIGHT + 32, below, colour, 3)
    line = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    return [line, *dots, key, _text(_WIDTH - _RIGHT + 38, below + 4, name, "start")]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


if __name__ == "__main__":
    sys.exit(main())
