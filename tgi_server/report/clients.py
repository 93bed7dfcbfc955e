"""Throughput as a picture: `python -m tgi_server.report.clients out.svg FILE ...` draws tokens/s against clients.

A file is NAME=BENCH.json, a line with that name, or what `compare --json` wrote, a line for each of its servers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from tgi_server.report.plots import Points, available, lines

_USAGE = "Usage: plot-clients OUT.svg NAME=BENCH.json|COMPARED.json..."


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what `job=bench output=...` and `compare --json` wrote; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if "--help" in words or len(words) < 2:
        print(_USAGE, file=sys.stdout if "--help" in words else sys.stderr)
        return 0 if "--help" in words else 2
    if not available():
        print("Error: pictures need matplotlib: pip install 'tgi-server[report]'", file=sys.stderr)
        return 1
    curves: dict[str, Points] = {}
    try:
        for word in words[1:]:
            more = _read(word)
            if twice := curves.keys() & more.keys():
                raise ValueError(f"{word}: there is a line {min(twice)} already")
            curves |= more
        text = lines("Throughput", "clients", "output tokens a second", curves)
        Path(words[0]).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _read(word: str) -> Mapping[str, Points]:
    """The lines of NAME=FILE or FILE. Raises OSError, and ValueError when it is not such a file."""
    name, named, path = word.rpartition("=")
    if not path or (named and not name):
        raise ValueError(f"{word}: files are written NAME=BENCH.json or COMPARED.json")
    try:
        content = orjson.loads(Path(path).read_bytes())
        servers = {name: content}.items() if named else content["servers"].items()
        if not servers:
            raise ValueError("nothing was compared")
        return {key: _rates(value) for key, value in servers}
    except (ValueError, LookupError, TypeError, AttributeError):
        writer = "job=bench" if named else "compare --json"
        raise ValueError(f"{path} is not a file that {writer} has written") from None


def _rates(content: Mapping[str, Any]) -> Points:
    rates = [(float(run["clients"]), float(run["tokens_per_second"])) for run in content["runs"]]
    if not rates or any(clients <= 0 or rate < 0 for clients, rate in rates):
        raise ValueError("nothing was measured")
    return rates


if __name__ == "__main__":
    sys.exit(main())
