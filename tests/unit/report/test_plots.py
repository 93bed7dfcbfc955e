"""Pictures are SVG with words, the same for the same numbers, and no word covers another."""

from __future__ import annotations

import math
import re
from itertools import combinations
from xml.etree import ElementTree

import pytest

from tests.unit.report.svg import labels, marks, texts
from tgi_server.report import plots

HOSTILE = '</text><script>alert("1")</script> $x^{$ \x00\x1b[31m 模型'


def touching(picture: str) -> list[tuple[str, str]]:
    return [(one.text, other.text) for one, other in combinations(labels(picture), 2) if one.touches(other)]


def all_of(name: str) -> list[str]:
    points = {name: (1.0, 2.0), "2": (2.0, 3.0)}
    return [
        plots.lines(name, name, name, {name: [(1, 1.0), (8, 2.0)]}),
        plots.effect(name, name, name, {name: 1.0, "b": math.nan}, {name: [1.0], "b": []}),
        plots.trade(name, name, name, points, [name]),
        plots.agreement(name, name, points, 0.15),
    ]


def test_they_are_whole_and_alike_and_need_nothing() -> None:
    once = all_of(HOSTILE)
    assert once == all_of(HOSTILE)
    for picture in once:
        ElementTree.fromstring(picture)
        assert picture.startswith("<svg") and "<script" not in picture
        outside = set(re.findall(r'https?://[^"\s]+', picture))
        assert outside <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
        assert set(re.findall(r'href="(.)', picture)) == {"#"}
        assert "date" not in picture.lower() and "matplotlib" not in picture.lower()


def test_those_for_pages_take_on_their_colours() -> None:
    file, *pages = all_of("plain")
    assert "currentColor" not in file and "#ffffff" in file
    assert all("currentColor" in page and "#ffffff" not in page and "#0a0b0c" not in page for page in pages)


@pytest.mark.parametrize("largest", [0.0, 0.003, 44850.0])
def test_points_of_lines_are_where_their_numbers_say(largest: float) -> None:
    picture = plots.lines(
        "title", "clients", "ms", {"ours": [(8, largest), (1, largest / 2), (2, 0.0)], "a<b": [(1, 0)]}
    )
    ours, other = marks(picture)
    xs, ys = [x for x, _ in ours], [y for _, y in ours]
    assert (xs[1] - xs[0]) * 3 == pytest.approx(xs[2] - xs[0], abs=0.01)  # logarithmic
    bottom = ys[1]
    assert other == [(ours[0][0], bottom)]
    assert (bottom - ys[0]) * 2 == pytest.approx(bottom - ys[2], abs=0.01)
    assert {"1", "2", "8", "ours", "a<b", "title", "clients", "ms"} <= set(texts(picture))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"]),
        ([64, 256, 1024, 4000, 4096, 8000, 8192], ["64", "256", "1024", "4096", "8192"]),
        ([32], ["32"]),
    ],
)
def test_labels_of_x_do_not_touch(sizes: list[int], expected: list[str]) -> None:
    picture = plots.lines("title", "tokens", "ms", {"ours": [(size, 1.0) for size in sizes]})
    assert texts(picture)[: len(expected)] == expected[::-1]
    assert not touching(picture)


def test_an_effect_has_its_means_and_single_points() -> None:
    means, single = {"5": 110.0, "20": 120.0, "60": math.nan}, {"5": [100.0, 120.0], "20": [120.0], "60": []}
    picture = plots.effect("tokens/s", "max_waiting_tokens", "tokens/s", means, single)
    lines = marks(picture)
    assert [len(line) for line in lines] == [2, 1, 2]
    (low, high), (alone,), (first, second) = lines
    assert first[1] == pytest.approx((low[1] + high[1]) / 2, abs=0.01) and second[1] == alone[1] == high[1]
    assert {"5", "20", "60", "max_waiting_tokens"} <= set(texts(picture))


def test_small_differences_look_small_and_values_from_0_begin_there() -> None:
    def height(low: float, high: float) -> float:
        picture = plots.effect("t", "s", "u", {"a": low, "b": high}, {"a": [low], "b": [high]})
        first, second = marks(picture)[-1]
        return first[1] - second[1]

    assert 0 < height(99.0, 100.0) < 0.1 * height(10.0, 100.0)


def test_many_and_long_names_stay_apart() -> None:
    means = {str(number): 1.0 for number in range(40)}
    below = [text for text in texts(plots.effect("t", "s", "u", means, {n: [1.0] for n in means})) if text in means]
    assert 5 <= len(set(below)) <= 14
    long = {f"a rather long name of a choice {number}": 1.0 for number in range(4)}
    picture = plots.effect("t", "s", "u", long, {name: [1.0] for name in long})
    assert picture.count("rotate(-30 ") == 4
    assert all(len(text) <= 20 for text in texts(picture))


def test_names_of_points_do_not_cover_each_other() -> None:
    points = {str(number): (1.0 + number % 7 / 100, 1.0 + number % 5 / 100) for number in range(60)}
    points |= {"far": (2.0, 2.0)}
    picture = plots.trade("t", "x", "y", points, ["far"])
    shown = {label.text for label in labels(picture)} & points.keys()
    assert "far" in shown and 5 < len(shown) < len(points)
    assert not touching(picture)


def test_agreement_has_its_points() -> None:
    picture = plots.agreement("t", "ms", {"1": (10.0, 10.0), "2": (20.0, 30.0)}, 0.15)
    assert len(marks(picture)[-1]) == 2
    assert {"1", "2", "equal", "± 15 %", "measured, ms", "simulated, ms"} <= set(texts(picture))


def test_other_scales() -> None:
    curves = {"a": [(0.0, 1.0), (1.0, 10.0), (4.0, 100.0), (16.0, 1000.0)]}
    picture = plots.lines("t", "margin", "ms", curves, x_scale="symlog", y_scale="log")
    (line,) = marks(picture)
    ys = [y for _, y in line]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.01)
    assert line[2][0] - line[1][0] == pytest.approx(line[3][0] - line[2][0], abs=0.01)
    assert {"0", "1", "4", "16", "10", "1,000"} <= set(texts(picture)) and not touching(picture)
    picture = plots.lines("t", "load", "ms", {"a": [(13.6245, 1.0), (99.8845, 2.0)]}, x_scale="linear")
    assert "13.6245" not in texts(picture) and {"20", "40", "100"} & set(texts(picture))
