"""docs/quantisation.md out of the numbers: the text of page.md with tables in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.quantisation.contenders import BASELINE, OURS, RIVALS, THEIRS
from scripts.quantisation.goals import judged
from scripts.quantisation.models import DEMO, LARGE, MODELS
from scripts.quantisation.results import Results

Tables = Mapping[str, Callable[[Results], str]]

TEMPLATE = Path(__file__).parent / "page.md"
TITLES = {DEMO: "SmolLM2-135M", LARGE: "random Llama, 1.2 B"}
CLIENTS = (1, 8, 32)
NOTHING = "-"
START_HEAD = ("times `none`", "shard at the peak, MB", "times `none`", "once ready, MB", "times `none`")
"""Of what `_start` gives behind the seconds."""


def written(results: Results) -> str:
    """The document. Raises KeyError where the text names a table that there is not."""
    return filled(TEMPLATE, TABLES, results)


def filled(template: Path, tables: Tables, results: Results) -> str:
    """A text with the tables that it names. Raises KeyError where it names one that there is not."""
    return re.sub(r"\{\{([a-z_]+)\}\}", lambda found: tables[found[1]](results), template.read_text())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column to the left, numbers to the right."""
    rows = list(rows)
    if not rows:
        return "Not measured yet."
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def times(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def machine(results: Results) -> str:
    """What speeds were measured on, and when."""
    return machine_of([run for model in MODELS for run in results.runs(model)])


def machine_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """The machines of some runs, and their days."""
    if not runs:
        return "not measured yet"
    days = sorted({run["date"][:10] for run in runs})
    return f"{'; '.join(sorted({run['machine'] for run in runs}))}; {' to '.join(dict.fromkeys((days[0], days[-1])))}"


def speed(results: Results, model: str) -> str:
    """Against bfloat16 in the same run; behind its name what it reached there."""
    rows = []
    for each in [*OURS, *THEIRS]:
        ratios = [results.ratio(model, each.name, BASELINE, clients) for clients in CLIENTS]
        if any(ratio is not None for ratio in ratios) and each.name != BASELINE:
            rows.append([each.name, str(each.bits), *map(times, ratios)])
    return table(["", "bits", *(clients_of(count) for count in CLIENTS)], rows)


def rivals(results: Results, model: str) -> str:
    """Against llama.cpp's file of as many bits."""
    rows = []
    for each in OURS:
        ratios = [results.ratio(model, each.name, RIVALS[each.bits], clients) for clients in CLIENTS]
        if any(ratio is not None for ratio in ratios):
            rows.append([each.name, RIVALS[each.bits], *map(times, ratios)])
    return table(["", "against", *(clients_of(count) for count in CLIENTS)], rows)


def baseline(results: Results) -> str:
    """What bfloat16 reached in the latest run of each model, so that ratios can be read as speeds."""
    parts = []
    for model in MODELS:
        for run in results.runs(model)[-1:]:
            rates = run["rates"][BASELINE]
            reached = ", ".join(f"{max(each):.0f} at {clients}" for clients, each in rates.items() if each)
            parts.append(f"{TITLES[model]}: {reached}")
    return "; ".join(parts) or "not measured yet"


def weights(results: Results) -> str:
    """Of both models, in bytes and as a part of what bfloat16 takes."""
    rows = []
    for each in OURS:
        cells = [cell for model in MODELS for cell in _bytes(results, "weights", "bytes", model, each.name)]
        if set(cells) != {NOTHING}:
            rows.append([each.name, *cells])
    return table(["", *(cell for model in MODELS for cell in (f"{TITLES[model]}, MB", "of bfloat16"))], rows)


def perplexity(results: Results) -> str:
    """Of the demo model, and what it rose by."""
    plain = results.get("perplexity", DEMO, BASELINE)
    rows = []
    for each in OURS:
        value = results.get("perplexity", DEMO, each.name)
        if value and plain:
            rise = value["perplexity"] / plain["perplexity"] - 1
            rows.append([each.name, f"{value['perplexity']:.3f}", "" if each.name == BASELINE else f"{rise:+.2%}"])
    return table(["", "perplexity", "rise"], rows)


def package(results: Results) -> str:
    """Ours beside what the bitsandbytes package makes of the same weights."""
    rows = []
    own_names = {"none": BASELINE, "int8": "bitsandbytes", "nf4": "bitsandbytes-nf4", "fp4": "bitsandbytes-fp4"}
    for kind, name in own_names.items():
        theirs, own = results.get("package", DEMO, kind), results.get("perplexity", DEMO, name)
        if theirs and own:
            ratio = own["perplexity"] / theirs["perplexity"] - 1
            rows.append([name, f"{own['perplexity']:.3f}", f"{theirs['perplexity']:.3f}", f"{ratio:+.2%}"])
    return table(["", "here", "package and transformers", "difference"], rows)


def starts(results: Results) -> str:
    """Seconds and memory of the demo model's starts."""
    rows = []
    for each in OURS:
        found = results.get("starts", DEMO, each.name)
        if found:
            rows.append([each.name, f"{found['first']:.1f} s", *_start(results, DEMO, each.name)])
    return table(["", "first start", "later ones", *START_HEAD], rows)


def without_caches(results: Results) -> str:
    """The very first start."""
    found = results.get("without caches", DEMO, BASELINE)
    return f"{found['seconds']:.0f} s" if found else "not measured"


def starts_large(results: Results) -> str:
    """The same of the large model, whose starts are all alike."""
    rows = []
    for each in OURS:
        found = results.get("starts", LARGE, each.name)
        if found:
            rows.append([each.name, *_start(results, LARGE, each.name)])
    return table(["", "start", *START_HEAD], rows)


def goals(results: Results) -> str:
    """Each goal, who reaches it and who does not."""
    rows = []
    for goal in judged(results):
        met = ", ".join(goal.met) or (NOTHING if goal.missed else "not measured yet")
        rows.append([goal.words, met, ", ".join(f"**{each}**" for each in goal.missed) or NOTHING])
    lines = [["goal", "met by", "not met by"], ["---"] * 3, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def clients_of(count: int) -> str:
    """As the head of a column."""
    return f"{count} client{'s' if count > 1 else ''}"


def _bytes(results: Results, part: str, field: str, model: str, name: str) -> list[str]:
    """Megabytes, and the part of what bfloat16 takes."""
    own, plain = results.get(part, model, name), results.get(part, model, BASELINE)
    if not own:
        return [NOTHING, NOTHING]
    return [f"{own[field] / 1e6:.0f}", times(own[field] / plain[field] if plain else None)]


def _start(results: Results, model: str, name: str) -> list[str]:
    """Seconds and memory of a start that finds all caches, each with its ratio to bfloat16."""
    own, plain = results.get("starts", model, name), results.get("starts", model, BASELINE)
    assert own is not None
    seconds = [f"{own['second']:.1f} s", times(own["second"] / plain["second"] if plain else None)]
    peak, ready = (_bytes(results, "starts", field, model, name) for field in ("peak", "ready"))
    return [*seconds, *peak, *ready]


TABLES: Tables = {
    "machine": machine, "baseline": baseline, "weights": weights, "perplexity": perplexity, "package": package,
    "starts": starts, "starts_large": starts_large, "without_caches": without_caches, "goals": goals,
    "speed_demo": lambda results: speed(results, DEMO), "speed_large": lambda results: speed(results, LARGE),
    "rivals_demo": lambda results: rivals(results, DEMO), "rivals_large": lambda results: rivals(results, LARGE),
}  # fmt: skip
"""What the text may name, in double braces."""
