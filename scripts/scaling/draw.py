"""The pictures of docs/scaling.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.scaling.front import CARRIES
from tgi_server.report.plots import Points, lines

BUSY = 0.7
"""The part of what a front router carries that it is given."""
_NAMES = {"prefix": "by prefix", "least_loaded": "least loaded", "round_robin": "round robin"}
_TOKENS = (100, 1000, 10_000)
"""A second and replica."""

Found = Sequence[Mapping[str, Any]]


def pictures(found: Mapping[str, Any]) -> dict[str, str]:
    """Names of files, and what is in them."""
    many = _loads(found["replicas"])
    good = {name: [(point["replicas"], point["goodput"]) for point in points] for name, points in many.items()}
    cached = {name: [(point["replicas"], _cached(point)) for point in points] for name, points in many.items()}
    return {
        "scaling-goodput.svg": lines(
            "Requests within the limits", "replicas", "requests a second",
            {name: [spot for spot in spots if spot[1] > 0] for name, spots in good.items()}, y_scale="log",
        ),
        "scaling-replica.svg": lines(
            "Requests within the limits, of each replica", "replicas", "requests a second and replica",
            {name: [(size, rate / size) for size, rate in spots] for name, spots in good.items()},
        ),
        "scaling-cached.svg": lines("Prompt tokens found in caches", "replicas", "% of prompt tokens", cached),
        "scaling-load.svg": lines(
            "16 replicas under more and more load", "requests a second and replica that arrive",
            "of these within the limits", _curves(found["load"]), x_scale="linear",
        ),
        "scaling-margin.svg": _margin(found["margin"]),
        "scaling-routers.svg": _routers(found["routers"]),
        "scaling-front.svg": _needed(),
        "scaling-delay.svg": lines(
            f"Waiting in one front router of {CARRIES:,.0f} tokens/s", "its load, %", "ms that a token waits",
            {name: [(100 * point["tokens"] / CARRIES, 1000 * point[name]) for point in found["front"]]
             for name in ("p50", "p95", "p99")}, x_scale="linear", y_scale="log",
        ),
    }  # fmt: skip


def _loads(points: Found) -> dict[str, list[Mapping[str, Any]]]:
    """The points of each routing and load."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        found.setdefault(f"{_NAMES[point['routing']]}, {point['rate']:g}/s arrive", []).append(point)
    return dict(sorted(found.items()))


def _curves(points: Found) -> dict[str, Points]:
    """What a replica answers in time under each load, for each way of routing."""
    return {
        name: [(point["rate"], point["goodput"] / point["replicas"]) for point in points if point["routing"] == routing]
        for routing, name in _NAMES.items()
    }


def _cached(point: Mapping[str, Any]) -> float:
    return float(100 * point["cached"])


def _margin(points: Found) -> str:
    """First tokens by prefix with more and more margin, and where all share one prompt, without any look at it."""

    def first(prompts: int, routing: str) -> list[tuple[float, float]]:
        return [
            (point["margin"], 1000 * point["first_token_p95"])
            for point in points
            if (point["replicas"], point["prompts"], point["routing"]) == (16, prompts, routing)
        ]

    ((_, without),) = first(1, "least_loaded")
    curves = {
        "160 system prompts, 8/s arrive": first(160, "prefix"),
        "one for all, 4/s arrive": first(1, "prefix"),
        "one for all, least loaded": [(margin, without) for margin, _ in first(1, "prefix")],
    }
    title = "First token of 95 in 100 requests, 16 replicas"
    return lines(title, "prefix_margin, requests", "ms", curves, x_scale="symlog")


def _routers(points: Found) -> str:
    """What processes find that do not know of each other."""
    by_prefix = [(point["routers"], _cached(point)) for point in points if point["routing"] == "prefix"]
    (without,) = (_cached(point) for point in points if point["routing"] == "least_loaded")
    curves = {"by prefix": by_prefix, "least loaded": [(routers, without) for routers, _ in by_prefix]}
    return lines("Prompt tokens found in caches, 32 replicas", "front routers", "% of prompt tokens", curves)


def _needed() -> str:
    """On paper: as many as carry all tokens."""
    sizes = [1, 3, 10, 30, 100, 300, 1000]
    curves = {f"{tokens:,} tokens/s a replica": [(size, needed(size, tokens)) for size in sizes] for tokens in _TOKENS}
    title = f"Front routers of {CARRIES:,.0f} tokens/s, at {100 * BUSY:.0f} % of it"
    return lines(title, "replicas", "front routers", curves, y_scale="log")


def needed(replicas: int, tokens: float) -> int:
    """Front routers for so many replicas of so many tokens a second each."""
    return math.ceil(replicas * tokens / (BUSY * CARRIES))
