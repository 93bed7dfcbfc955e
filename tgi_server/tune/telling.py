"""What came of a search, in words."""

from __future__ import annotations

from collections.abc import Iterator

from tgi_server.sweep.objective import Objective
from tgi_server.tune.race import Arm, Gain, Outcome

_UNITS = {
    Objective.throughput: "{} tokens/s",
    Objective.latency: "{} s for the slowest 5 in 100 answers",
    Objective.goodput: "{} requests/s",
}


def lines(objective: Objective, outcome: Outcome, most: int = 5) -> Iterator[str]:
    """The result: what wins and by how much, then what became of the others, `most` of them."""
    yield _first(objective, outcome)
    if not outcome.complete:
        yield "The budget was over before everything was settled; with the same record a second start goes on."
    others = [arm for arm in outcome.arms[1:] if arm is not outcome.winner]
    for arm in others[:most]:
        yield f"  {arm.candidate.name}: {_became(objective, outcome, arm)}"
    if len(others) > most:
        yield f"  and {len(others) - most} more"


def _first(objective: Objective, outcome: Outcome) -> str:
    base, winner = outcome.base, outcome.winner
    if not winner.known:
        return f"Nothing keeps the limits, at no load that was tried ({_reason(base)})."
    score = _score(objective, winner)
    if winner is not base:
        if outcome.gain is None:
            return f"{score} with {winner.candidate.name}; the documented defaults keep the limits at no load."
        than = f"the documented defaults ({_score(objective, base)})"
        return f"{score} with {winner.candidate.name}: {_gain(objective, outcome.gain)} than {than}."
    if not any(arm.scores for arm in outcome.arms[1:]):
        return f"Nothing could be compared with the documented defaults: {score}."
    if outcome.best is None or outcome.gain is None:
        few = "" if outcome.complete else "of what was measured "
        return f"Nothing {few}beats the documented defaults: {score}."
    near = f"best {outcome.best.candidate.name}, {_signed(outcome.gain)}"
    why = "measured once" if outcome.gain.margin is None else "by more than the noise"
    if outcome.gain.margin is None:
        return f"Nothing is known to beat the documented defaults ({near}, {why}): {score}."
    return f"Nothing beats the documented defaults {why} ({near}): {score}."


def _became(objective: Objective, outcome: Outcome, arm: Arm) -> str:
    score = f"{_score(objective, arm)} in {len(arm.known)} of {len(arm.scores)} rounds" if arm.known else ""
    return "; ".join(filter(None, [score, arm.dropped]))


def _reason(arm: Arm) -> str:
    return arm.dropped or arm.why or "the time was over"


def _score(objective: Objective, arm: Arm) -> str:
    return _UNITS[objective].format(f"{abs(arm.typical):.3g}")


def _gain(objective: Objective, gain: Gain) -> str:
    word = "shorter" if objective is Objective.latency else "more"
    return f"{100 * gain.mean:.0f} %{_margin(gain)} {word}"


def _signed(gain: Gain) -> str:
    return f"{100 * gain.mean:+.0f} %{_margin(gain)}"


def _margin(gain: Gain) -> str:
    return "" if gain.margin is None else f" (+-{100 * gain.margin:.0f})"
