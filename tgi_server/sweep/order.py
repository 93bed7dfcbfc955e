"""The order in which the trials of a sweep are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tgi_server.config import options
from tgi_server.config.describe import shown
from tgi_server.sweep.points import Point


class Turn(NamedTuple):
    """One measurement to be made; `repeat` counts from 1 on."""

    point: Point
    repeat: int


def order(points: Sequence[Point], repeats: int) -> list[Turn]:
    """All measurements of all points.

    Repeat after repeat, so that a machine that becomes slower does so for all points. Points with the same shards are
    next to each other, among them those with the same router; every second repeat goes the other way round, so that
    what runs at its beginning is what ran last.
    """
    near = _neighbours(points)
    return [
        Turn(point, repeat) for repeat in range(1, repeats + 1) for point in (near if repeat % 2 else reversed(near))
    ]


def same_shards(one: Point, other: Point) -> bool:
    """Whether the two differ in nothing that concerns shards."""
    return _settings(one, "shard") == _settings(other, "shard")


def _neighbours(points: Sequence[Point]) -> list[Point]:
    shards: dict[object, int] = {}
    routers: dict[object, int] = {}

    def place(point: Point) -> tuple[int, int]:
        shard, router = _settings(point, "shard"), _settings(point, "router")
        return shards.setdefault(shard, len(shards)), routers.setdefault(router, len(routers))

    return sorted(points, key=place)


def _settings(point: Point, concerned: str) -> tuple[tuple[str, str], ...]:
    """The options that concern such processes."""
    values = options.values(point.task.run.config, whole=True)
    return tuple((name, shown(value)) for name, value in values.items() if concerned in options.concerns(name))
