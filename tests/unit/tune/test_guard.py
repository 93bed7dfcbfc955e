"""Measurements that are lost end early, and queues that grow are seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.unit.tune.servers import queue
from tgi_server.bench.completion import Record
from tgi_server.sweep.objective import Limits
from tgi_server.tune.guard import EndedError, Guard, saturated, verdict


def answer(start: float, first: float = 0.1, gap: float = 0.02, tokens: int = 11, error: str | None = None) -> Record:
    arrivals = [start + first + number * gap for number in range(tokens)]
    return Record(start, start, arrivals, arrivals[-1], tokens, error=error)


def fed(guard: Guard, records: list[Record]) -> int:
    """How many records it sees before it ends the measurement."""
    for number in range(1, len(records) + 1):
        try:
            guard(number / len(records), records[:number])
        except EndedError:
            return number
    return len(records) + 1


LIMITS = Limits(ttft_p95=0.5, itl_p95=0.05, whole_p95=2.0)


def test_a_measurement_that_keeps_the_limits_goes_on() -> None:
    records = [answer(number, first=0.9 if number % 20 == 0 else 0.1) for number in range(100)]
    assert fed(Guard(LIMITS, 100), records) == 101
    assert verdict(records, LIMITS, open_loop=True) is None


@pytest.mark.parametrize("late", [partial(answer, first=0.9), partial(answer, gap=0.3)])
def test_it_ends_as_soon_as_it_is_lost(late: Callable[[float], Record]) -> None:
    records = [late(number) if number % 2 else answer(number) for number in range(200)]
    seen = fed(Guard(LIMITS, 200), records)
    assert seen <= 0.3 * 200
    assert verdict(records[:seen], LIMITS, open_loop=False) == "limits broken"


def test_it_is_lost_only_when_it_cannot_be_won_any_more() -> None:
    """5 in 100 may be late, and the percentile lies between two of them."""
    for late in range(4, 9):
        records = [answer(number, first=0.9 if number < late else 0.1) for number in range(100)]
        lost = fed(Guard(LIMITS, 100), records) <= 100
        assert not lost or verdict(records, LIMITS, open_loop=False)
    assert lost


def test_failures_and_hopeless_ones_end_it() -> None:
    with pytest.raises(EndedError, match="a request failed: status 429"):
        Guard(Limits(), 100)(0.1, [answer(0), answer(1, error="status 429")])
    with pytest.raises(EndedError, match="too slow"):
        Guard(Limits(), None, lambda part, records: "too slow" if part > 0.5 else None)(0.6, [answer(0)])
    guard = Guard(Limits())
    guard(0.0, [])  # while warming up
    guard(0.5, [answer(0)])
    assert len(guard.records) == 1


@pytest.mark.parametrize("servers", [1, 8])
def test_queues_that_grow_are_told_from_those_that_do_not(servers: int) -> None:
    def share(load: float) -> float:
        runs = [queue(load * servers, 1.0, 200, seed, servers) for seed in range(40)]
        return sum(saturated(run) is not None for run in runs) / len(runs)

    assert share(0.5) == 0
    assert share(0.8) < 0.15
    assert share(1.25) > 0.9
    assert share(2.0) == 1
    assert saturated(queue(10.0, 1.0, 6, 0)) is None  # too few to tell


def test_a_closed_loop_does_not_saturate() -> None:
    assert verdict(queue(2.0, 1.0, 200, 0), Limits(), open_loop=False) is None
    assert verdict(queue(2.0, 1.0, 200, 0), Limits(), open_loop=True) is not None
