"""From all candidates to the result in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.unit.tune.servers import Servers, candidate
from tgi_server.errors import UsageError
from tgi_server.sweep.objective import Objective
from tgi_server.tune.race import Arm, Gain, Outcome
from tgi_server.tune.scoring import Load, Probe
from tgi_server.tune.search import Aim, Field, search
from tgi_server.tune.space import Candidate
from tgi_server.tune.telling import lines

DEFAULTS = candidate()
OTHERS = [candidate(wait=wait) for wait in range(40)]
GOODPUT = Aim(Objective.goodput, (), 128, budget=900.0)


def capacity(candidate: Candidate, load: Load) -> float:
    """Best around 12: 30 % more than the defaults."""
    return 3.0 if not candidate.settings else 3.9 - 0.1 * abs(int(candidate.settings["wait"]) - 12)


@dataclass
class Timed:
    """A server at which each probe takes some seconds, or a tenth where it fails."""

    servers: Servers
    seconds: float = 30.0
    now: float = 0.0

    def __call__(self, candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
        probe = self.servers(candidate, load, repeat, beat)
        self.now += self.seconds if probe.good else self.seconds / 10
        return probe

    def search(
        self, simulate: Servers | None, composed: Callable[[Candidate], Candidate] = lambda candidate: candidate
    ) -> Outcome:
        field = Field(DEFAULTS, OTHERS, OTHERS[::5], composed, 3)
        return search(field, GOODPUT, self, simulate, self.told.append, lambda: self.now)

    def __post_init__(self) -> None:
        self.told: list[str] = []


def test_the_simulators_best_are_measured_and_win() -> None:
    timed = Timed(Servers(capacity, noise=0.02, goodput=True))
    outcome = timed.search(Servers(capacity, goodput=True))
    names = {name for name, _, _ in timed.servers.probes}
    assert "documented defaults" in names and len(names) <= 4
    assert int(outcome.winner.candidate.settings["wait"]) in range(10, 15)
    assert timed.now <= 930 and "simulated 41 of 41 configurations" in timed.told


def test_a_simulator_that_misleads_does_not_win() -> None:
    timed = Timed(Servers(lambda candidate, load: 2.5 if candidate.settings else 3.0, noise=0.02, goodput=True))
    outcome = timed.search(Servers(capacity, goodput=True))
    assert outcome.winner is outcome.base
    (first, *rest) = lines(Objective.goodput, outcome)
    assert first.startswith("Nothing beats the documented defaults: ") and len(rest) == 3


def test_a_simulator_that_is_wrong_about_the_defaults_does_not_know() -> None:
    timed = Timed(Servers(capacity, goodput=True), seconds=5.0)
    outcome = timed.search(Servers(lambda candidate, load: 2 * capacity(candidate, load), goodput=True))
    assert outcome.doubt is not None and re.search(r"it is \+(9[789]|100) % off for", outcome.doubt)
    assert f"{outcome.doubt}; options are measured one by one" in timed.told
    names = {name for name, _, _ in timed.servers.probes}
    assert names >= {"documented defaults", *(each.name for each in OTHERS[::5])}
    timed = Timed(Servers(capacity, goodput=True), seconds=5.0)
    outcome = timed.search(Servers(lambda candidate, load: 0.0, goodput=True))
    assert outcome.doubt is not None and outcome.doubt.endswith("whether the documented defaults keep the limits")


def test_single_differences_where_there_is_no_simulator() -> None:
    timed = Timed(Servers(capacity, goodput=True), seconds=5.0)
    outcome = timed.search(None)
    assert {name for name, _, _ in timed.servers.probes} == {
        "documented defaults",
        *(each.name for each in OTHERS[::5]),
    }
    assert outcome.winner.candidate.name == "wait=10" and outcome.complete


def test_finding_out_what_steps_cost_takes_no_candidate_its_turn() -> None:
    timed = Timed(Servers(capacity, goodput=True), seconds=5.0)

    @dataclass
    class Slow(Servers):
        """Needs a third of the budget at first, and a second for each further probe."""

        def __call__(self, candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
            timed.now += 1.0 if self.probes else 300.0
            return super().__call__(candidate, load, repeat, beat)

    outcome = timed.search(Slow(capacity, goodput=True))
    assert "simulated 41 of 41 configurations" in timed.told and outcome.doubt is None
    assert outcome.winner.candidate.name.startswith("wait=1")


def test_a_simulator_that_cannot_run_is_told() -> None:
    def fails(candidate: Candidate, load: Load) -> float:
        raise ValueError("speculate=3: cannot be simulated")

    timed = Timed(Servers(capacity, goodput=True), seconds=5.0)
    timed.search(Servers(fails))
    assert timed.told[0] == "not simulated: speculate=3: cannot be simulated"


def test_the_budget_is_kept() -> None:
    timed = Timed(Servers(capacity, goodput=True), seconds=200.0)
    outcome = timed.search(Servers(capacity, goodput=True))
    assert timed.now <= 1100 and not outcome.complete and outcome.base.known
    assert any("budget was over" in line for line in lines(Objective.goodput, outcome))


def test_candidates_that_cannot_be_composed_are_dropped() -> None:
    def composed(candidate: Candidate) -> Candidate:
        if candidate.settings:
            raise UsageError("no")
        return candidate

    outcome = Timed(Servers(capacity, goodput=True)).search(None, composed=composed)
    assert outcome.winner is outcome.base and {arm.dropped for arm in outcome.arms[1:]} == {"failed: no"}


def outcome(gain: Gain | None, base: list[float], best: list[float]) -> Outcome:
    arms = [
        Arm(candidate(**settings), scores=dict(enumerate(scores, 1)))
        for settings, scores in (({}, base), ({"wait": 5}, best))
    ]
    return Outcome(arms, arms[1] if best else None, gain, True)


@pytest.mark.parametrize(("objective", "came", "words"), [
    (Objective.goodput, outcome(Gain(0.22, 0.05), [2.5], [3.05]),
     "3.05 requests/s with wait=5: 22 % (+-5) more than the documented defaults (2.5 requests/s)."),
    (Objective.latency, outcome(Gain(0.22, 0.05), [-2.0], [-1.56]),
     "1.56 s for the slowest 5 in 100 answers with wait=5: 22 % (+-5) shorter than the documented defaults (2 s for "
     "the slowest 5 in 100 answers)."),
    (Objective.throughput, outcome(Gain(0.03, 0.06), [250.0], [257.0]),
     "Nothing beats the documented defaults by more than the noise (best wait=5, +3 % (+-6)): 250 tokens/s."),
    (Objective.throughput, outcome(Gain(0.03, None), [250.0], [257.0]),
     "Nothing is known to beat the documented defaults (best wait=5, +3 %, measured once): 250 tokens/s."),
    (Objective.goodput, outcome(None, [2.5], []),
     "Nothing could be compared with the documented defaults: 2.5 requests/s."),
    (Objective.goodput, outcome(None, [], [3.0]),
     "3 requests/s with wait=5; the documented defaults keep the limits at no load."),
    (Objective.goodput, outcome(None, [], []),
     "Nothing keeps the limits, at no load that was tried (the time was over)."),
])  # fmt: skip
def test_the_result_in_words(objective: Objective, came: Outcome, words: str) -> None:
    assert next(lines(objective, came)) == words
