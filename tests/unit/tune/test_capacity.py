"""Loads that are just borne are found in few probes, of a queue whose capacity is known, too."""

from __future__ import annotations

import random

import pytest

from tests.unit.tune.servers import Queue, candidate
from tgi_server.sweep.objective import Limits, Objective
from tgi_server.tune.capacity import greatest, peak
from tgi_server.tune.scoring import Load, Scorer


@pytest.mark.parametrize(("start", "most"), [(3.0, 4), (3.3, 4), (2.7, 5), (1.5, 9), (6.0, 9), (0.1, 12), (100.0, 12)])
def test_found_in_few_probes(start: float, most: int) -> None:
    probes: list[float] = []

    def keeps(rate: float) -> bool:
        probes.append(rate)
        return rate <= 3.1

    found = greatest(keeps, start)
    assert found is not None and 3.1 / 1.053 <= found <= 3.1
    assert len(probes) == len(set(probes)) <= most


def test_what_takes_too_long_is_not_looked_at() -> None:
    probes: list[float] = []

    def keeps(rate: float) -> bool:
        probes.append(rate)
        return False

    assert greatest(keeps, 8.0, bounds=(1.0, 64.0), step=2.0) is None and probes == [8.0, 4.0, 1.0]
    assert greatest(keeps, 0.1, bounds=(1.0, 64.0)) is None and probes[3:] == [1.0]


def test_a_start_at_a_bound_goes_on_the_other_way() -> None:
    assert 47.5 <= (greatest(lambda rate: rate <= 50, 1.0, bounds=(1.0, 1000.0)) or 0) <= 50
    assert 47.5 <= (greatest(lambda rate: rate <= 50, 1000.0, bounds=(1.0, 1000.0)) or 0) <= 50


def test_noise_of_5_percent_leaves_it_close() -> None:
    errors = []
    for seed in range(50):
        chance = random.Random(seed)
        found = greatest(lambda rate: rate <= 3.1 * chance.gauss(1, 0.05), 2.0)  # noqa: B023 - called here only
        assert found is not None
        errors.append(abs(found / 3.1 - 1))
    assert sorted(errors)[45] < 0.15


def test_nothing_is_kept_everything_is_kept_and_enough_is_enough() -> None:
    assert greatest(lambda rate: False, 1.0) is None
    assert (greatest(lambda rate: True, 1.0, bounds=(1e-3, 64)) or 0) == 64
    probes: list[float] = []

    def keeps(rate: float) -> bool:
        probes.append(rate)
        return True

    assert greatest(keeps, 1.0, enough=lambda: len(probes) >= 2) == probes[-1]
    assert len(probes) == 2


@pytest.mark.parametrize("servers", [1, 4])
def test_the_capacity_of_a_queue(servers: int) -> None:
    """Four places of a second each bear four requests a second; with a limit on the first token somewhat less."""
    server = Queue(service=1.0, limits=Limits(ttft_p95=3.0), servers=servers)
    found = Scorer(Objective.goodput, (), 128).find(server, candidate(), 1, None, None)
    assert found.value is not None and 0.6 * servers < found.value < servers
    assert found.load == Load(128, found.value) and len(server.probes) <= 9


def test_a_queue_without_a_limit_on_waiting_is_found_by_its_growth() -> None:
    """Tokens flow evenly however many wait: only the queue tells that the load is too much."""
    for repeat in range(5):
        server = Queue(service=1.0, limits=Limits(itl_p95=2.0), servers=4)
        found = Scorer(Objective.goodput, (), 128).find(server, candidate(), repeat, None, None)
        assert found.value == pytest.approx(4.0, rel=0.15)
        assert found.why is not None and found.why.startswith("saturated")


def throughput(clients: int) -> float:
    return min(clients, 12) * 10.0


@pytest.mark.parametrize("start", [1, 4, 16])
def test_the_number_of_clients_that_fills_a_server(start: int) -> None:
    assert peak(throughput, start, 128) == 16


def test_as_many_clients_as_keep_the_limits() -> None:
    assert peak(lambda clients: throughput(clients) if clients <= 8 else None, 1, 128) == 8
    assert peak(lambda clients: throughput(clients) if clients <= 8 else None, 64, 128) == 8
    assert peak(throughput, 1, 6) == 4
    assert peak(lambda clients: None, 8, 128) is None
    assert peak(lambda clients: 100.0 / clients, 8, 128) == 1
