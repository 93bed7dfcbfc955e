"""Who is best is found by turns, within the time, and told from noise."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests.unit.tune.servers import Servers, candidate, summary
from tgi_server.sweep.objective import Objective
from tgi_server.tune.race import Arm, Outcome, gain, race
from tgi_server.tune.scoring import Evaluate, FailedError, Found, Load, Probe, Scorer
from tgi_server.tune.space import Candidate

DEFAULTS = candidate()


def arms(*values: int) -> list[Arm]:
    return [Arm(DEFAULTS), *(Arm(candidate(speed=value)) for value in values)]


def speed(candidate: Candidate, load: Load) -> float:
    return float(candidate.settings.get("speed", 100))


def raced(
    racers: list[Arm],
    scorer: Scorer,
    evaluate: Evaluate,
    spent: Callable[[], float] = lambda: 0.0,
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    return race(racers[0], lambda base: racers[1:], scorer, evaluate, spent, tell)


def throughput(servers: Servers, racers: list[Arm], calls: int = 10_000) -> Outcome:
    """A race in which the time is over after so many probes."""
    return race(
        racers[0],
        lambda base: racers[1:],
        Scorer(Objective.throughput, [Load(4)], 128),
        servers,
        lambda: len(servers.probes) / calls,
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_best_is_found_through_noise(seed: int) -> None:
    outcome = throughput(Servers(speed, noise=0.03, seed=seed), arms(90, 125, 118, 60))
    assert outcome.winner.candidate.name in ("speed=125", "speed=118") and outcome.complete
    assert outcome.gain is not None and outcome.gain.sure and outcome.gain.mean == pytest.approx(0.25, abs=0.12)


def test_nothing_beats_the_defaults_where_nothing_does() -> None:
    wrong = 0
    for seed in range(20):
        outcome = throughput(Servers(speed, noise=0.05, seed=seed), arms(100, 100, 100))
        wrong += outcome.winner is not outcome.base
    assert wrong <= 2


def test_the_defaults_and_the_best_take_turns() -> None:
    servers = Servers(speed, noise=0.005)
    outcome = throughput(servers, arms(100, 60, 99))
    later = [(name, repeat) for name, _, repeat in servers.probes if repeat > 1]
    assert {name for name, _ in later} == {"documented defaults", "speed=100", "speed=99"}
    for repeat, turn in itertools.groupby(later, key=lambda probe: probe[1]):
        names = [name for name, _ in turn]
        assert names[0 if repeat % 2 else -1] == "documented defaults"
    assert (
        next(arm for arm in outcome.arms if arm.candidate.name == "speed=60").dropped == "clearly worse than the best"
    )


@pytest.mark.parametrize("calls", [1, 3, 8])
def test_the_time_is_kept_and_the_defaults_are_always_measured(calls: int) -> None:
    servers = Servers(speed, noise=0.05)
    outcome = throughput(servers, arms(101, 102, 99, 98), calls)
    assert len(servers.probes) <= calls + 1 and not outcome.complete
    assert servers.probes[0][0] == "documented defaults" and outcome.base.known
    assert any(arm.dropped == "not measured: the time was over" for arm in outcome.arms) == (calls < 8)


def test_a_candidate_that_fails_is_dropped_and_told() -> None:
    def truth(candidate: Candidate, load: Load) -> float:
        if "cache" in candidate.settings:
            raise ValueError("out of memory")
        return speed(candidate, load)

    told: list[str] = []
    racers = [*arms(130), Arm(candidate(cache=1))]
    scorer = Scorer(Objective.throughput, [Load(4)], 128)
    outcome = raced(racers, scorer, Servers(truth), lambda: 0.0, told.append)
    assert racers[2].dropped == "failed: out of memory" and "cache=1: failed: out of memory" in told
    assert outcome.winner is racers[1]
    with pytest.raises(FailedError, match="out of memory"):
        raced([racers[2], racers[1]], scorer, Servers(truth))


def capacity(candidate: Candidate, load: Load) -> float:
    return float(candidate.settings.get("rate", 3.0))


def test_goodput_of_bad_candidates_takes_one_probe() -> None:
    servers = Servers(capacity, goodput=True)
    racers = [Arm(DEFAULTS), *(Arm(candidate(rate=rate)) for rate in (2.5, 3.9, 3.5, 3.0))]
    outcome = raced(racers, Scorer(Objective.goodput, (), 128), servers)
    assert outcome.winner is racers[2]
    assert outcome.gain is not None and outcome.gain.mean == pytest.approx(0.3, abs=0.06)
    assert outcome.gain.margin is not None and outcome.gain.margin > 0.01  # never surer than the probes are fine
    for name in ("rate=2.5", "rate=3.5", "rate=3.0"):
        assert [probe[0] for probe in servers.probes].count(name) == 1
    assert racers[1].dropped == racers[3].dropped == "limits broken"


def test_goodput_with_noisy_probes() -> None:
    for seed in range(5):
        servers = Servers(capacity, noise=0.05, goodput=True, seed=seed)
        racers = [Arm(DEFAULTS), Arm(candidate(rate=3.9)), Arm(candidate(rate=1.0))]
        outcome = raced(racers, Scorer(Objective.goodput, (), 128), servers)
        assert outcome.winner is racers[1] and len(servers.probes) < 80


def test_defaults_that_keep_the_limits_at_no_load_lose_to_whoever_does() -> None:
    servers = Servers(lambda candidate, load: capacity(candidate, load) if candidate.settings else 0.0, goodput=True)
    racers = [Arm(DEFAULTS), Arm(candidate(rate=2.0))]
    outcome = raced(racers, Scorer(Objective.goodput, (), 128), servers)
    assert outcome.winner is racers[1] and outcome.gain is None and not outcome.base.known


def test_shorter_answers_are_a_gain() -> None:
    shorter, base = Arm(candidate(a=1)), Arm(DEFAULTS)
    shorter.scores, base.scores = {1: -1.6, 2: -1.5, 3: None, 4: -1.6}, {1: -2.0, 2: -2.0, 3: -2.0}
    found = gain(Objective.latency, shorter, base)
    assert found is not None and found.mean == pytest.approx(0.225, abs=0.01)
    assert found.margin == pytest.approx(0.39, abs=0.02) and not found.sure  # of two repeats


def test_repeats_do_not_make_a_rough_search_finer() -> None:
    """The same steps of a bisection miss by as much each time."""
    rival, base = Arm(candidate(a=1)), Arm(DEFAULTS)
    rival.scores, base.scores = dict.fromkeys(range(1, 7), 1.049), dict.fromkeys(range(1, 7), 1.0)
    rough, fine = (gain(Objective.goodput, rival, base, resolution) for resolution in (0.05, 0.01))
    assert rough is not None and fine is not None
    assert not rough.sure and fine.sure


def test_who_fails_late_does_not_win() -> None:
    def evaluate(candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
        if not candidate.settings:
            return Probe(summary(tokens=100.0))
        return Probe(None, error="out of memory") if repeat == 3 else Probe(summary(tokens=200.0))

    racers = [Arm(DEFAULTS), Arm(candidate(cache=1))]
    outcome = raced(racers, Scorer(Objective.throughput, [Load(4)], 128), evaluate)
    assert racers[1].known and racers[1].dropped == "failed: out of memory"
    assert outcome.winner is not racers[1]


def test_one_repeat_has_no_interval() -> None:
    one, base = Arm(candidate(a=1), scores={1: 2.0}), Arm(DEFAULTS, scores={1: 1.0, 2: 1.0})
    found = gain(Objective.throughput, one, base)
    assert found is not None and found.mean == pytest.approx(1.0)
    assert found.margin is None and not found.sure
    assert gain(Objective.throughput, Arm(DEFAULTS, scores={2: None}), base) is None


def test_throughput_over_numbers_of_clients() -> None:
    def evaluate(candidate: Candidate, load: Load, repeat: int, beat: float | None = None) -> Probe:
        return Probe(summary(tokens=min(load.clients, 12) * 10.0), "limits broken" if load.clients > 8 else None)

    free = Scorer(Objective.throughput, (), 128)
    found = free.find(evaluate, DEFAULTS, 1, None, None)
    assert (found.value, found.load, found.why) == (80.0, Load(8), "limits broken")
    assert free.find(evaluate, DEFAULTS, 2, Load(4), None) == Found(40.0, Load(4))  # repeats are of one load
    given = Scorer(Objective.throughput, [Load(2), Load(6), Load(16)], 128)
    assert given.find(evaluate, DEFAULTS, 1, None, None).load == Load(6)
    arriving = Scorer(Objective.throughput, [Load(64, 3.0)], 64)
    assert arriving.find(evaluate, DEFAULTS, 1, None, None).why == "limits broken"
