"""The tables of docs/migrating.md, out of `later`: `python -m tgi_server.config.later_page FILE` writes them anew."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tgi_server.config import later
from tgi_server.config.later import Means, Nothing, Outcome, Refused, Row, Told, Works

_MARK = "<!-- names -->\n"
"""Before and behind the tables in the page."""


def tables() -> str:
    """One table for flags that are also variables, one for values of our own options, one for variables."""
    rows = later.rows().values()
    return "\n".join([
        *_table("option", [row for row in rows if row.flag and row.otherwise is not None]),
        *_table("value of an option", [row for row in rows if row.otherwise is None]),
        *_table("variable", [row for row in rows if not row.flag and row.otherwise is not None]),
    ])  # fmt: skip


def written(page: str) -> str:
    """The page with the tables as they are now."""
    before, _, after = page.split(_MARK)
    return f"{before}{_MARK}{tables()}{_MARK}{after}"


def _table(title: str, rows: list[Row]) -> Iterator[str]:
    lines = (f"| {cells} |\n" for row in rows for cells in _lines(row))
    yield f"\n| {title} | value | what becomes of it |\n|---|---|---|\n" + "".join(lines)


def _lines(row: Row) -> Iterator[str]:
    """The cells of each line of a row, the name in the first one only."""
    name = f"`{row.name.upper()}`"
    if row.flag:
        name = f"`--{row.name.replace('_', '-')}`, {name}"
    described = [(_shown(values), _words(outcome)) for values, outcome in row.values.items()]
    if row.read is not None:
        described.append(("", (row.read.__doc__ or "").strip().rstrip(".")))
    if row.otherwise is not None:
        described.append(("any other" if described else "", _words(row.otherwise)))
    for number, cells in enumerate(described):
        yield " | ".join([name if number == 0 else "", *cells])


def _shown(values: str) -> str:
    """Values for people."""
    comment = re.match(r"\(\?#(.*?)\)", values)
    return ", ".join(f"`{value}`" for value in ([comment[1]] if comment else values.split("|")))


def _words(outcome: Outcome) -> str:
    match outcome:
        case Means(option, value):
            return f"is `{option}`" if value is None else f"is `{option}={value}`"
        case Nothing(why):
            return f"changes nothing: {why}"
        case Refused(instead):
            return f"**stops the start**: {instead}"
        case Told(words) | Works(words):
            return f"works: {words}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(written(path.read_text()))
