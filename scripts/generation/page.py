"""The section of docs/benchmarks.md out of the numbers: page.md with tables in it, between two marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from scripts.generation import processors, texts, ways
from scripts.generation.goals import judged
from scripts.quantisation import page
from scripts.quantisation.page import clients_of, table, times
from scripts.quantisation.results import Results

TEMPLATE = Path(__file__).parent / "page.md"
BEGIN, END = "<!-- written by ./scripts/measure-generation -->", "<!-- up to here -->"
MODELS = ("sampling", *ways.WORKLOADS)
"""Of the results: what runs of rates are about."""


def written(results: Results, document: str) -> str:
    """The document with the section renewed. Raises ValueError where it has no place for it."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} with {END} after it")
    return f"{before}{begin}\n{page.filled(TEMPLATE, TABLES, results)}{end}{after}"


def machine(results: Results) -> str:
    """What rates were measured on, and when."""
    return page.machine_of([run for model in MODELS for run in results.runs(model)])


def sampling(results: Results) -> str:
    """Each way against greedy."""
    return _ratios(results, "sampling", ways.SAMPLING, ways.GREEDY)


def speculation(results: Results) -> str:
    """Each server against the one that guesses nothing, a table for each workload."""
    parts = [f"{name}:\n\n{_ratios(results, name, ways.SPECULATION, ways.PLAIN)}" for name in ways.WORKLOADS]
    return "\n\n".join(parts)


def _ratios(results: Results, model: str, names: Mapping[str, object], base: str) -> str:
    """What the base reached in the latest run, and what part or multiple of it the others did."""
    rows = []
    for run in results.runs(model)[-1:]:
        reached = [run["rates"][base].get(str(clients)) for clients in ways.CLIENTS]
        rows.append([f"{base}, tokens/s", *(f"{median(each):.0f}" if each else page.NOTHING for each in reached)])
    for name in names:
        ratios = [results.ratio(model, name, base, clients) for clients in ways.CLIENTS]
        if name != base and any(ratio is not None for ratio in ratios):
            rows.append([name, *map(times, ratios)])
    return table(["", *map(clients_of, ways.CLIENTS)], rows)


def new_tokens(results: Results) -> str:
    """Of each request, in the latest run."""
    return _told(results, "new_tokens")


def dtype(results: Results) -> str:
    """Of the servers whose speed was measured, in the latest run."""
    return _told(results, "dtype")


def _told(results: Results, name: str) -> str:
    told = {str(run[name]) for model in MODELS for run in results.runs(model)[-1:]}
    return " or ".join(sorted(told)) or "-"


def guesses(results: Results) -> str:
    """A row for each server, workload and number of clients."""
    return table(["", "workload", "clients", "tokens a step", "guesses a step", "right"], _guesses(results))


def _guesses(results: Results) -> Iterator[list[str]]:
    for server in ways.SPECULATION:
        for workload in ways.WORKLOADS:
            for clients, found in ((results.get("guesses", workload, server) or {}).get("clients") or {}).items():
                right = ", ".join(f"{part:.0%}" for part in found["right"])
                yield [server, workload, clients, f"{found['tokens a step']}", f"{found['guesses a step']}", right]


def equal_texts(results: Results) -> str:
    """How many texts of each server are those of the server without guesses."""
    rows = []
    for server in ways.SPECULATION:
        if found := results.get("texts", "float32", server):
            rows.append([server, f"{found['equal']} of {found['texts']}"])
    return table(["", "equal"], rows)


def costs(results: Results) -> str:
    """Microseconds a token of each way, by rows."""
    measured = {name: results.get("processors", "cpu", name) for name in ways.SAMPLING}
    rows = [
        [name, *(f"{found[str(count)]:.0f}" for count in processors.ROWS)] for name, found in measured.items() if found
    ]
    return table(["", *(f"{count} row{'s' * (count > 1)}" for count in processors.ROWS)], rows)


def goals(results: Results) -> str:
    """Each goal, how much of what was measured reaches it, and what does not."""
    rows = []
    for goal in judged(results):
        met = (
            f"{len(goal.measured) - len(goal.missed)} of {len(goal.measured)}" if goal.measured else "not measured yet"
        )
        least = times(min(goal.measured.values(), default=None))
        missed = ", ".join(f"**{name} {value:.2f}**" for name, value in goal.missed.items())
        rows.append([goal.words, met, least, missed or page.NOTHING])
    return table(["goal", "met by", "the least", "not met by"], rows)


TABLES: page.Tables = {
    "machine": machine, "new_tokens": new_tokens, "dtype": dtype, "sampling": sampling, "speculation": speculation,
    "guesses": guesses, "texts": equal_texts, "chosen": lambda results: ", ".join(texts.CHOICES), "goals": goals,
    "together": lambda results: str(texts.TOGETHER), "processors": costs,
    "history": lambda results: str(processors.HISTORY),
}  # fmt: skip
"""What the text may name, in double braces."""
