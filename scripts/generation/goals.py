"""The goals, and what reaches them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from scripts.generation import ways
from scripts.quantisation.results import Results

Asked = tuple[str, str, str, int]
"""What rates are about, who is compared with whom, and at how many clients."""


@dataclass(frozen=True)
class Goal:
    """One of them: what has to be at least `least`, and what it was, by what was measured."""

    words: str
    least: float
    measured: Mapping[str, float]

    @property
    def missed(self) -> dict[str, float]:
        """What falls short."""
        return {name: value for name, value in self.measured.items() if value < self.least}


def judged(results: Results) -> Iterator[Goal]:
    """All goals, with what was measured."""
    sampled = [("sampling", way, ways.GREEDY, clients) for way in ways.SAMPLING for clients in ways.CLIENTS]
    yield Goal("sampled tokens/s: 0.92 of greedy", 0.92, _ratios(results, sampled))
    for clients, least in ((1, 1.8), (8, 1.3)):
        words = f"repetitive text, {clients} client{'s' * (clients > 1)}: {least} times `speculate=0`"
        yield Goal(words, least, _ratios(results, _guessing([ways.REPETITIVE], [clients])))
    ordinary = [name for name in ways.WORKLOADS if name.startswith(ways.ORDINARY)]
    words = "ordinary text, any number of clients: 0.97 of `speculate=0`"
    yield Goal(words, 0.97, _ratios(results, _guessing(ordinary, ways.CLIENTS)))
    yield Goal("texts in float32: all as with `speculate=0`", 1.0, _equal(results))


def _guessing(workloads: Iterable[str], clients: Iterable[int]) -> Iterator[Asked]:
    counts = list(clients)
    for workload in workloads:
        for server in ways.SPECULATION:
            yield from ((workload, server, ways.PLAIN, count) for count in counts)


def _ratios(results: Results, asked: Iterable[Asked]) -> dict[str, float]:
    found = {}
    for model, name, base, clients in asked:
        ratio = results.ratio(model, name, base, clients)
        if name != base and ratio is not None:
            about = "" if model == "sampling" else f"{model}, "
            found[f"{name} ({about}{clients})"] = ratio
    return found


def _equal(results: Results) -> dict[str, float]:
    measured = {name: results.get("texts", "float32", name) for name in ways.SPECULATION}
    return {name: found["equal"] / found["texts"] for name, found in measured.items() if found}
