"""What steps of the demo model cost, out of the measured tables of docs/benchmarks.md ("A step", bfloat16)."""

from __future__ import annotations

import re
from pathlib import Path

from tgi_server.simulate.costs import MeasuredCosts, Sample, Shape
from tgi_server.simulate.fit import fit

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"
_CONTEXT = 200
"""Positions of each sequence in the table of batches."""


def costs(page: str) -> MeasuredCosts:
    """What fits the tables of the page best."""
    batches = [
        Sample(Shape(0, 0, rows, rows * _CONTEXT), seconds)
        for rows, seconds in _row(page, f"batch (context {_CONTEXT})", "bfloat16")
    ]
    contexts = [
        Sample(Shape(0, 0, rows, rows * context), seconds)
        for rows in (1, 4)
        for context, seconds in _row(page, "context", f"bfloat16, batch {rows}")
    ]
    prompts = [
        Sample(Shape(tokens, tokens * (tokens + 1) // 2, 0, 0, 1), seconds)
        for tokens, seconds in _row(page, "prompt", "bfloat16")
    ]
    return fit([*batches, *contexts, *prompts])


def _row(page: str, table: str, row: str) -> list[tuple[int, float]]:
    """A size and the seconds of a step, for each column of a row."""
    found = re.search(rf"^\| {re.escape(table)} \|(.*)\|\n\|.*\n(?:\|.*\n)*?\| {row}, ms \|(.*)\|$", page, re.MULTILINE)
    assert found, f"docs/benchmarks.md has no table of {table}"
    sizes, milliseconds = (text.split("|") for text in found.groups())
    return [(int(size), float(value) / 1000) for size, value in zip(sizes, milliseconds, strict=True)]
