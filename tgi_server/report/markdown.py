"""The report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tgi_server.report import tables, words
from tgi_server.report.findings import Findings
from tgi_server.report.metrics import DEFINITIONS
from tgi_server.report.tables import Cell, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def markdown(found: Findings) -> str:
    """All of it, without pictures."""
    return "\n\n".join(_parts(found)) + "\n"


def _parts(found: Findings) -> Iterator[str]:
    yield "# Sweep"
    yield escaped(words.headline(found))
    yield "## Points"
    yield _table(tables.points(found))
    if found.effects:
        yield "## Effects"
    for effect in found.effects:
        yield f"### {escaped(effect.setting)}"
        yield _table(tables.effect(effect, found.metric))
        if not effect.balanced:
            yield words.UNBALANCED
    for latency in tables.LATENCIES:
        if found.front(latency):
            yield f"## Pareto front: tokens/s and {latency.name}"
            yield _table(tables.front(found, latency))
    yield from _simulated(found)
    yield from _failed(found)
    yield "## Definitions"
    yield "\n".join(f"* {escaped(name)}: {escaped(meaning)}" for name, meaning in DEFINITIONS.items())
    yield "## Made with"
    yield "\n".join(f"* {escaped(name)}: {_code(value)}" for name, value in found.sweep.facts.items())


def _simulated(found: Findings) -> Iterator[str]:
    lines = list(words.simulator(found))
    if found.sweep.predictions or lines:
        yield "## Simulated against measured"
        yield "\n".join(f"* {escaped(line)}" for line in lines)
        yield _table(tables.predictions(found))


def _failed(found: Findings) -> Iterator[str]:
    lines = words.failures(found)
    if lines:
        yield "## What failed"
        yield "\n".join(f"* {escaped(line)}" for line in lines)
    for row in found.rows:
        for trial in row.failures:
            if trial.last_words:
                yield f"Last lines of point {row.point.number}, repeat {trial.repeat}:"
                yield "\n".join(f"    {_line(line)}" for line in trial.last_words)


def escaped(text: str) -> str:
    """The text as Markdown that shows it, in one line."""
    return _SPECIAL.sub(r"\\\1", _line(text))


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _code(text: str) -> str:
    """As code, whatever backticks it holds."""
    line = _line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"


def _table(table: Table) -> str:
    lines = [[escaped(name) for name in table.head], ["---" if text else "---:" for text in table.left]]
    lines += [[_cell(cell, i in table.marked) for cell in row] for i, row in enumerate(table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: Cell, marked: bool) -> str:
    text = escaped(f"{cell.text} {cell.note}".strip())
    return f"**{text}**" if marked and text else text
