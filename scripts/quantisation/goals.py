"""The goals, and who reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from scripts.quantisation.contenders import BASELINE, OURS, RIVALS, Contender
from scripts.quantisation.models import DEMO, MODELS
from scripts.quantisation.results import Results


@dataclass
class Goal:
    """One of them. Contenders are told with their numbers; who was not measured is in neither list."""

    words: str
    met: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


def judged(results: Results) -> Iterator[Goal]:
    """All goals, with what was measured."""
    for model in MODELS:
        for bits, least in ((4, 1.7), (8, 1.3)):
            words = f"{bits} bits, 1 client, {model} model: at least {least} times bfloat16"
            yield _of(words, lambda each, b=bits: each.bits == b, _ratio(results, model, 1), at_least=least)
        for clients in (8, 32):
            words = f"{clients} clients, {model} model: no less than 0.9 of bfloat16"
            yield _of(words, lambda each: each.bits < 16, _ratio(results, model, clients), at_least=0.9)
    for model in MODELS:
        for bits in (4, 8):
            for clients, least in ((1, 1.0), (8, 1.5), (32, 2.5)):
                words = f"{clients} client{'s' * (clients > 1)}, {model} model: {least} times {RIVALS[bits]}"
                value = _ratio(results, model, clients, RIVALS[bits])
                yield _of(words, lambda each, b=bits: each.bits == b, value, at_least=least)
    rise = _rise(results)
    yield _of("perplexity, 8 bits: rises by less than 0.5 %", lambda each: each.bits == 8, rise, below=0.005)
    words = "perplexity, awq and gptq of `job=quantize`: rises by less than 8 %"
    yield _of(words, lambda each: each.made, rise, below=0.08)
    words = "perplexity, nf4: within 1 % of what the bitsandbytes package gives"
    yield _of(words, lambda each: each.name == "bitsandbytes-nf4", _apart(results, "nf4"), below=0.01)


Value = Callable[[Contender], float | None]


def _of(
    words: str, concerns: Callable[[Contender], bool], value: Value, at_least: float | None = None, below: float = 0.0
) -> Goal:
    """The goal with those it concerns sorted: ratios by what they must not be less than, parts by what they must stay
    below."""
    goal = Goal(words)
    for each in filter(concerns, OURS):
        number = value(each)
        if number is None:
            continue
        if at_least is not None:
            shown, met = f"{each.name} {number:.2f}", number >= at_least
        else:
            shown, met = f"{each.name} {number:+.2%}", number < below
        (goal.met if met else goal.missed).append(shown)
    return goal


def _ratio(results: Results, model: str, clients: int, other: str = BASELINE) -> Value:
    return lambda each: results.ratio(model, each.name, other, clients)


def _rise(results: Results) -> Value:
    def rise(each: Contender) -> float | None:
        own, plain = (results.get("perplexity", DEMO, name) for name in (each.name, BASELINE))
        return own["perplexity"] / plain["perplexity"] - 1 if own and plain else None

    return rise


def _apart(results: Results, kind: str) -> Value:
    """How far from the package's, up or down."""

    def apart(each: Contender) -> float | None:
        own, theirs = results.get("perplexity", DEMO, each.name), results.get("package", DEMO, kind)
        return abs(own["perplexity"] / theirs["perplexity"] - 1) if own and theirs else None

    return apart
