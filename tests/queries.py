"""The queries of the dashboard and of the alerts, and what they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy/prometheus"
OF_ALL = {"job", "instance", "le"}
"""Labels that Prometheus adds to every series, and the one of buckets."""

_SELECTOR = re.compile(r"\b(?P<name>(?:tgi|process)_\w+|up)(?::\w+)?(?:\{(?P<labels>[^}]*)\})?")
"""A recorded series (`labels:metric:operation`) is asked for by the labels of its metric."""

_GROUPING = re.compile(r"\b(?:by|on) \((?P<labels>[^)]*)\)")


def dashboard() -> dict[str, Any]:
    """What Grafana imports."""
    read: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
    return read


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    return [rule for rule in _all_rules() if "alert" in rule]


def records() -> list[dict[str, Any]]:
    """The series that alerts are made of."""
    return [rule for rule in _all_rules() if "record" in rule]


def _all_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panel_queries(window: str = "1m") -> list[tuple[str, str]]:
    """The title of a panel with each of its queries, as Grafana sends them when all servers are chosen."""
    replaced = {"$__rate_interval": window, "$job": ".*", "$instance": ".*"}
    found = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in replaced.items():
                query = query.replace(name, value)
            found.append((panel["title"], query))
    return found


def selectors(query: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The metrics that a query reads, with the labels that it chooses by."""
    for match in _SELECTOR.finditer(query):
        yield match["name"], dict(re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', match["labels"] or ""))


def groupings(query: str) -> set[str]:
    """The labels that a query tells apart."""
    return {label.strip() for match in _GROUPING.finditer(query) for label in match["labels"].split(",")}
