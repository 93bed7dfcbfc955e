"""Each probe has its own prompts and a length that means something, and ends when there is nothing to win."""

from __future__ import annotations

import pytest

from tests.unit.tune.test_guard import answer, fed
from tgi_server.sweep.objective import Objective
from tgi_server.tune.options import TuneOptions
from tgi_server.tune.scoring import Load
from tgi_server.tune.work import guard, run_number, work


def test_enough_requests_for_a_percentile_and_few_before() -> None:
    made = work(TuneOptions(), Load(128, 2.5), 1)
    assert (made.rate, made.clients, made.requests, made.duration, made.warmup) == (2.5, (128,), 100, None, 4)
    closed = work(TuneOptions(clients="1,8"), Load(8), 1)
    assert (closed.rate, closed.clients, closed.requests, closed.duration) == (None, (8,), None, 20.0)


def test_what_was_asked_for_counts() -> None:
    made = work(TuneOptions(requests=40, warmup=0, new_tokens=7, prompt_tokens="9"), Load(4, 1.0), 1)
    assert (made.requests, made.duration, made.warmup, made.new_tokens, made.lengths) == (40, None, 0, 7, (9, 9))
    assert work(TuneOptions(duration=3.0), Load(4), 1).duration == 3.0


def test_a_traffic_keeps_its_lengths_whatever_the_load() -> None:
    options = TuneOptions(traffic="agent")
    at_random, played, closed = (work(options, load, 1) for load in (Load(8, 2.0), Load(8, None, 3.0), Load(8)))
    assert (at_random.rate, at_random.speed, at_random.requests) == (2.0, None, 100)
    assert (played.rate, played.speed, played.requests) == (None, 3.0, 100)
    assert (closed.rate, closed.speed, closed.duration) == (None, None, 20.0) and closed.closed
    assert at_random.traffic is not None and at_random.traffic == played.traffic == closed.traffic


def test_repeats_and_loads_differ_and_candidates_do_not() -> None:
    assert work(TuneOptions(seed=5), Load(4, 1.0), 3).seed == 7
    numbers = [run_number(load, repeat) for load in (Load(4), Load(8), Load(4, 1.5)) for repeat in (1, 2)]
    assert len(set(numbers)) == 6 and run_number(Load(4, 1.5), 2) == numbers[-1]


def seen(options: TuneOptions, load: Load, beat: float | None, seconds: float) -> int:
    """Of 100 answers of 11 tokens, one after the other, each of which takes so long."""
    records = [answer(number * seconds, gap=(seconds - 0.1) / 10) for number in range(100)]
    return fed(guard(options, work(options, load, 1), beat), records)


@pytest.mark.parametrize(("beat", "ends"), [(None, False), (10.0, False), (16.0, True)])
def test_too_few_tokens(beat: float | None, ends: bool) -> None:
    """11 tokens a second."""
    options = TuneOptions(objective=Objective.throughput, requests=100)
    assert (seen(options, Load(1), beat, 1.0) <= 50) == ends


@pytest.mark.parametrize(("beat", "ends"), [(None, False), (-0.9, False), (-0.7, True)])
def test_answers_that_take_too_long(beat: float | None, ends: bool) -> None:
    options = TuneOptions(objective=Objective.latency, duration=100.0)
    assert (seen(options, Load(1), beat, 1.0) <= 30) == ends


def test_limits_end_it_whatever_the_objective() -> None:
    for objective in Objective:
        options = TuneOptions(objective=objective, slo_ttft_p95_ms=50, duration=10.0)
        assert seen(options, Load(64, 10.0), None, 1.0) <= 10
