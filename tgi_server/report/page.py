"""The report's files: a page, the same as Markdown, and the winner as a deployment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tgi_server.report import plots, tables, winner, words
from tgi_server.report.findings import Effect, Findings
from tgi_server.report.markdown import markdown
from tgi_server.report.metrics import DEFINITIONS, FIRST_P95, PREDICTED, TOKENS, Metric
from tgi_server.sweep.objective import Objective
from tgi_server.sweep.record import Sweep


def write(
    directory: Path, sweep: Sweep, objective: Objective = Objective.throughput, pictures: bool = True
) -> list[Path]:
    """Write `report.html`, `report.md` and, where there is a best point, `best.yaml`; returns their paths.

    Args:
        directory: is made where it does not exist. A `best.yaml` there goes when there is none any more.
        objective: by which the best is chosen, within `sweep.limits`.
        pictures: whether to draw them, which takes seconds; there are none without matplotlib.

    Raises:
        OSError: a file cannot be written.
    """
    found = Findings(sweep, objective)
    files = {"report.html": html(found, pictures and plots.available()), "report.md": markdown(found)}
    if found.best is not None:
        files[winner.FILE] = winner.deployment(found, found.best)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / winner.FILE).unlink(missing_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in files]


def html(found: Findings, pictures: bool) -> str:
    """The page, with everything in it."""
    import jinja2

    files = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=files, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja").render(_content(found, pictures))


def _content(found: Findings, pictures: bool) -> Mapping[str, Any]:
    return {
        "found": found,
        "headline": words.headline(found),
        "points": tables.points(found),
        "effects": [
            (effect, tables.effect(effect, found.metric), _effects(found.metric, effect) if pictures else [])
            for effect in found.effects
        ],
        "fronts": [(latency, tables.front(found, latency)) for latency in tables.LATENCIES if found.front(latency)],
        "trades": list(_trades(found)) if pictures else [],
        "simulator": list(words.simulator(found)),
        "predictions": tables.predictions(found) if found.predicted else None,
        "agreements": list(_agreements(found)) if pictures else [],
        "failures": words.failures(found),
        "winner": winner.deployment(found, found.best) if found.best else None,
        "winner_file": winner.FILE,
        "definitions": DEFINITIONS,
        "unbalanced": words.UNBALANCED,
        "no_pictures": None if plots.available() else words.NO_PICTURES,
        "style": Path(__file__).with_name("style.css").read_text(encoding="utf-8"),
    }


def _effects(objective: Metric, effect: Effect) -> list[str]:
    pictures = []
    for metric in (objective, FIRST_P95):
        means = {value: effect.mean(value, metric) for value in effect.levels}
        single = {value: _known(row.mean(metric) for row in rows) for value, rows in effect.levels.items()}
        pictures.append(plots.effect(metric.name, effect.setting, metric.unit or metric.name, means, single))
    return pictures


def _trades(found: Findings) -> Iterator[str]:
    for latency in tables.LATENCIES:
        front = [str(row.point.number) for row in found.front(latency)]
        spots = {str(row.point.number): (row.mean(latency), row.mean(TOKENS)) for row in found.measured}
        known = {name: spot for name, spot in spots.items() if all(map(math.isfinite, spot))}
        if known:
            yield plots.trade(f"tokens/s and {latency.name}", latency.title, TOKENS.title, known, front)


def _agreements(found: Findings) -> Iterator[str]:
    for metric in PREDICTED:
        pairs = {str(row.point.number): _pair(found, row.point.number, metric) for row in found.predicted}
        known = {name: pair for name, pair in pairs.items() if all(map(math.isfinite, pair))}
        if known:
            yield plots.agreement(f"{metric.name}, simulated", metric.unit or metric.name, known, words.CLOSE)


def _pair(found: Findings, number: int, metric: Metric) -> tuple[float, float]:
    row = next(row for row in found.rows if row.point.number == number)
    return row.mean(metric), metric.of(found.sweep.predictions[number])


def _known(values: Iterator[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
