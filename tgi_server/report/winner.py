"""The best point as a deployment of one difference: a YAML file to be checked in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import yaml

from tgi_server.config import files, options, parts
from tgi_server.config.schema import NetworkOptions, TelemetryOptions
from tgi_server.report.findings import Findings, Row
from tgi_server.report.metrics import FIRST_P95, TOKENS, WHOLE_P95, Metric
from tgi_server.report.words import settings

FILE = "best.yaml"
"""Its name."""

_OF_THE_PLACE = {field.name for group in (NetworkOptions, TelemetryOptions) for field in fields(group)} | {
    "shard_uds_path", "master_addr", "master_port", "huggingface_hub_cache", "conversion_cache",
    "network", "telemetry", "job", "deployment",
}  # fmt: skip
"""Options and groups that say where a server runs and what it tells, not how it works."""


def deployment(found: Findings, row: Row) -> str:
    """The file: what was measured as a comment, then every option by which the point differs from the defaults."""
    kept = {name: value for name, value in row.point.options.items() if _matters(name)}
    choices = dict(_choices(kept))
    values = _nested({name: value for name, value in kept.items() if name not in choices})
    lines = ["# @package _global_", *_comment(found, row)]
    if choices:
        lines += ["defaults:", *(f"  - override /{group}: {choice}" for group, choice in choices.items()), ""]
    lines += _written(values)
    return "\n".join(lines).rstrip("\n") + "\n"


def _matters(name: str) -> bool:
    """Whether it belongs to the server's work, and is neither a secret nor a matter of the place."""
    if name.partition(".")[0] in _OF_THE_PLACE or options.is_secret(name):
        return False
    part = name.partition(".")[0]
    if options.hint(name) is None and part not in parts.PARTS:
        return name in files.groups()
    return not {"shard", "router"}.isdisjoint(options.concerns(part if name.endswith("._target_") else name))


def _choices(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is a choice of a group: by its name, or a part whose class one of the choices names."""
    for name, value in values.items():
        if name in parts.PARTS:
            known = {target: choice for choice, target in parts.choices(name).items()}
            choice = known.get(value, value)
            if choice in parts.choices(name):
                yield name, choice
        elif name in files.groups() and options.hint(name) is None:
            yield name, value


def _nested(values: Mapping[str, str]) -> dict[str, Any]:
    """As YAML holds them; the fields of a part below its name."""
    found: dict[str, Any] = {}
    for name, text in values.items():
        part, dot, field = name.partition(".")
        if dot:
            found.setdefault(part, {})[field] = _value(name, text)
        elif name in parts.PARTS:
            found.setdefault(name, {})["_target_"] = text  # a class that is none of the choices
        else:
            found[name] = _value(name, text)
    return found


def _value(name: str, text: str) -> Any:
    """An option's value out of what `config.describe.shown` made of it."""
    hint = options.hint(name) or str
    if text == "null" and options.is_optional(hint):
        return None
    kind = options.inner_type(hint)
    if kind is bool:
        return text == "true"
    return kind(text) if kind in (int, float) else re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation


def _written(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of YAML; texts in quotes only where they could be read as something else."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _written(value, indent + "  ")
        elif isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./-]*", value) and yaml.safe_load(value) == value:
            yield f"{indent}{name}: {value}"
        else:
            yield f"{indent}{name}: {json.dumps(value)}"


def _comment(found: Findings, row: Row) -> Iterator[str]:
    point = row.point
    load = f"{point.clients} requests at a time" + (f", {point.rate:g} a second arriving" if point.rate else "")
    yield _line(f"The best of {len(found.sweep.points)} measured configurations ({settings(found, row)}).")
    yield _line(f"With {load}: " + "; ".join(_told(row, metric) for metric in (TOKENS, FIRST_P95, WHOLE_P95)))
    yield f"# Repeats: {len(row.summaries)}"
    for name, value in found.sweep.facts.items():
        yield _line(f"{name}: {value}")


def _told(row: Row, metric: Metric) -> str:
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.name} {row.interval(metric).text(metric.digits)}{unit}".replace("+-", "± ")


def _line(text: str) -> str:
    """A comment of one line, whatever the text holds: it comes from outside."""
    return "# " + "".join(letter if letter.isprintable() else " " for letter in text)
