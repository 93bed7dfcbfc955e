"""The best of all candidates in the simulator are measured."""

from __future__ import annotations

from tests.unit.tune.servers import Servers, candidate
from tgi_server.config.schema import ServerConfig
from tgi_server.sweep.objective import Objective
from tgi_server.tune.scoring import Load, Scorer
from tgi_server.tune.shortlist import Shortlist, shortlist, single
from tgi_server.tune.space import Candidate, combinations, searched

DEFAULTS = candidate()


def capacity(candidate: Candidate, load: Load) -> float:
    if candidate.settings.get("chunk") == "7":
        raise ValueError("not a multiple of 16")
    gains = {"wait=5": 1.3, "wait=1": 1.1, "chunk=64": 1.25, "size=4": 0.6, "size=8": 0.9}
    value = 3.0
    for name, text in candidate.settings.items():
        value *= gains.get(f"{name}={text}", 1.0)
    return value


def found(names: list[Candidate], count: int = 3, servers: Servers | None = None, probes: int = 1000) -> Shortlist:
    simulator = servers or Servers(capacity, goodput=True)
    scorer = Scorer(Objective.goodput, (), 128, tolerance=0.01)
    return shortlist(DEFAULTS, names, scorer, simulator, count, lambda: len(simulator.probes) >= probes)


CANDIDATES = [
    candidate(wait=1), candidate(wait=5), candidate(size=4), candidate(size=8), candidate(chunk=64),
    candidate(chunk=7), candidate(wait=5, color=1), candidate(wait=5, size=8), candidate(chunk=64, size=4),
]  # fmt: skip


def test_the_best_come_first_and_further_differences_have_to_gain() -> None:
    listed = found(CANDIDATES)
    assert [each.candidate.name for each in listed.best] == ["wait=5", "chunk=64", "wait=1"]
    assert listed.simulated == 10 and listed.base is not None and listed.base.value > 2.9
    assert listed.best[0].load == Load(128, listed.best[0].value)


def test_what_is_better_with_further_differences_takes_the_place_of_those_with_fewer() -> None:
    both = candidate(wait=5, chunk=64)
    assert [each.candidate.name for each in found([*CANDIDATES, both]).best] == ["wait=5 chunk=64", "wait=1"]


def test_bad_ones_take_one_probe() -> None:
    servers = Servers(capacity, goodput=True)
    assert [each.candidate.name for each in found(CANDIDATES, 1, servers).best] == ["wait=5"]
    asked = [name for name, _, _ in servers.probes]
    assert all(asked.count(name) == 1 for name in ("size=4", "size=8", "chunk=64", "chunk=64 size=4"))


def test_it_ends_in_time() -> None:
    listed = found(CANDIDATES, probes=40)
    assert 1 < listed.simulated < 10 and listed.best


def test_single_differences_where_nobody_can_tell() -> None:
    space = {"a": (1, 2, 3), "b": (None, True)}
    assert list(single(space)) == [{"a": 2}, {"b": True}, {"a": 3}]
    all_of_it = list(combinations(searched(ServerConfig(), {})))
    assert all(settings in all_of_it for settings in single(searched(ServerConfig(), {})))
