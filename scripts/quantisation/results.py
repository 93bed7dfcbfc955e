"""The measured numbers, which several runs fill together: docs/quantisation.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from tgi_server.bench.machine import facts
from tgi_server.kernels.native.build import cpu_info

INSTRUCTIONS = ("avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
"""Of processors, as the kernel spells them: what the products can be made of beside AVX2."""

Rates = dict[str, dict[str, list[float]]]
"""Tokens a second: of a contender, by the number of clients, one for each round."""


def machine() -> str:
    """What the numbers were measured on, in a line."""
    lines = [line for line in cpu_info() if line.startswith("flags")]
    flags = set(lines[0].split()) if lines else set()
    has = ", ".join(name for name in INSTRUCTIONS if name in flags) or "nothing beyond AVX2"
    told = facts()
    amx = "with" if "amx_bf16" in flags else "no"
    return f"{told['Processor']}, {told['Cores']} cores, {told['Memory']}, {amx} AMX ({has})"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


class Results:
    """Numbers by part, model and contender; what is measured again replaces what was there.

    Of rates whole runs are kept, as only numbers of one run compare.
    """

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        self.data = data or {}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Those of a file, or none where there is no file yet."""
        return cls(json.loads(path.read_text()) if path.exists() else {})

    def write(self, path: Path) -> None:
        """All of them, in one order, so that a difference is one of numbers."""
        path.write_text(json.dumps(self.data, indent=1, sort_keys=True) + "\n")

    def put(self, part: str, model: str, contender: str, values: Mapping[str, Any]) -> None:
        """Numbers of one contender that compare across runs; measured now, on this machine."""
        of_model = self.data.setdefault(part, {}).setdefault(model, {})
        of_model[contender] = {**values, "date": now(), "machine": machine()}

    def get(self, part: str, model: str, contender: str) -> dict[str, Any] | None:
        """What `put` was given; None where that was not measured."""
        found: dict[str, Any] | None = self.data.get(part, {}).get(model, {}).get(contender)
        return found

    def add_speeds(self, model: str, rates: Rates, about: Mapping[str, Any]) -> None:
        """A run's rates. Earlier runs go where this one has all of their contenders and numbers of clients."""
        runs = [run for run in self.runs(model) if not _covers(rates, run["rates"])]
        runs.append({"rates": rates, "date": now(), "machine": machine(), **about})
        self.data.setdefault("speed", {})[model] = runs

    def runs(self, model: str) -> Sequence[Mapping[str, Any]]:
        """Of rates, the oldest first."""
        found: Sequence[Mapping[str, Any]] = self.data.get("speed", {}).get(model, [])
        return found

    def ratio(self, model: str, contender: str, other: str, clients: int) -> float | None:
        """How many times the other's tokens a second, in the latest run that has both.

        The median of the ratios of single rounds: a slow minute of the machine is in both numbers.
        """
        for run in reversed(self.runs(model)):
            mine, theirs = (run["rates"].get(name, {}).get(str(clients)) for name in (contender, other))
            if mine and theirs:
                return median(a / b for a, b in zip(mine, theirs, strict=True))
        return None


def _covers(rates: Rates, older: Rates) -> bool:
    return all(set(clients) <= set(rates.get(name, ())) for name, clients in older.items())
