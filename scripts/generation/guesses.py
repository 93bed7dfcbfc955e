"""What became of guesses, as servers count it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx

from scripts.quantisation.speed import Asked
from tests.integration.server import series

_NAME = re.compile(r'tgi_speculate_(guessed|accepted)_tokens\{position="(\d+)"\}')
_STEPS = {"tgi_request_skipped_tokens_count": "steps", "tgi_request_skipped_tokens_sum": "skipped"}

Counts = Mapping[str, float]
"""`steps` of single texts, tokens `skipped` in them, and `guessed 1`, `accepted 1`, ... by position."""


def counts(metrics: str) -> Counts:
    """Those in a text of /metrics; empty where a server guesses nothing."""
    found = {}
    for name, value in series(metrics).items():
        if match := _NAME.fullmatch(name):
            found[f"{match[1]} {match[2]}"] = value
        elif name in _STEPS:
            found[_STEPS[name]] = value
    return found


class Tally:
    """Adds up what was counted in measurements, by server and number of clients."""

    def __init__(self) -> None:
        self._last: dict[int, Counts] = {}
        self._sums: dict[tuple[str, int], Counter[str]] = {}

    def told(self, asked: Asked, clients: int) -> None:
        """A measurement is over: what the server has counted since the last one belongs to it."""
        self.add(asked, clients, httpx.get(f"http://127.0.0.1:{asked.port}/metrics", timeout=30).text)

    def add(self, asked: Asked, clients: int, metrics: str) -> None:
        """The same with what /metrics says then."""
        now = counts(metrics)
        before = self._last.get(asked.port, {})
        self._last[asked.port] = now
        if clients:
            change = {name: value - before.get(name, 0.0) for name, value in now.items()}
            self._sums.setdefault((asked.name, clients), Counter()).update(change)

    def results(self, name: str) -> dict[str, Any]:
        """Of one server: tokens a step, and of guesses at each position the part that was right, by clients."""
        return {str(clients): _summary(sums) for (each, clients), sums in self._sums.items() if each == name and sums}


def _summary(sums: Counts) -> dict[str, Any]:
    positions = sorted(int(name.split()[1]) for name in sums if name.startswith("guessed"))
    guessed = {str(at): sums[f"guessed {at}"] for at in positions}
    accepted = [round(sums.get(f"accepted {at}", 0.0) / (sums[f"guessed {at}"] or 1), 3) for at in positions]
    steps = sums.get("steps") or 1
    return {
        "tokens a step": round(1 + sums.get("skipped", 0.0) / steps, 2),
        "guesses a step": round(sum(guessed.values()) / steps, 2),
        "right": accepted,
    }
