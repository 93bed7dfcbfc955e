"""The page about scaling: costs out of a table, points, what one front router carries, pictures."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from scripts.measure_scaling import FILE
from scripts.scaling import draw, front
from scripts.scaling.costs import PAGE, costs
from scripts.scaling.points import Point, kept
from tests.unit.report.svg import labels, texts
from tgi_server.simulate.costs import Shape
from tgi_server.simulate.shards import Simulated

KNOWN = costs(PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("shape", "milliseconds"),
    [(Shape(0, 0, 1, 200), 8.2), (Shape(0, 0, 32, 6400), 18.1), (Shape(512, 512 * 513 // 2, 0, 0, 1), 165)],
)
def test_costs_are_those_of_the_page(shape: Shape, milliseconds: float) -> None:
    assert 1000 * KNOWN.seconds(shape) == pytest.approx(milliseconds, rel=0.05)


def test_a_point() -> None:
    found = Point(3, "prefix", 2.0, 6, warm=2.0, seconds=3.0).run(KNOWN)
    assert found["goodput"] == found["asked"] == pytest.approx(6, abs=3)
    assert 0.3 < found["cached"] < 1 and found["fewest"] > 0 and found["refused"] == 0
    assert 0.01 < found["first_token_p95"] < 1


def test_who_keeps_the_limits() -> None:
    def record(first: float, each: float, error: str | None = None) -> Simulated:
        return Simulated(5.0, arrivals=[5.0 + first + number * each for number in range(9)], tokens=9, error=error)

    assert kept(record(0.9, 0.049))
    assert not kept(record(1.1, 0.01)) and not kept(record(0.1, 0.051)) and not kept(record(0.1, 0.01, "late"))


def test_tokens_pass_one_after_the_other() -> None:
    assert front.waits([0.0, 0.0, 1.0, 1.25], 2.0) == [0.5, 1.0, 0.5, 0.75]


def test_how_many_front_routers() -> None:
    assert [draw.needed(replicas, 1000) for replicas in (1, 21, 22, 1000)] == [1, 1, 2, 47]


def test_the_pictures_are_those_of_the_numbers() -> None:
    """The files of docs/plots are what is drawn from docs/plots/scaling.json."""
    found: Any = orjson.loads(FILE.read_bytes())
    pictures = draw.pictures(found)
    assert {path.name for path in FILE.parent.glob("scaling-*.svg")} == pictures.keys()
    for name, picture in pictures.items():
        assert {text for text in texts(picture) if text}, name
        flat = labels(picture)
        assert not [
            (one.text, two.text)
            for index, one in enumerate(flat)
            for two in flat[index + 1 :]
            if one.text and two.text and one.touches(two)
        ], name
        assert texts((FILE.parent / name).read_text()) == texts(picture)
