"""The best point, the front, effects, noise and errors of predictions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.unit.report.examples import failure, plausible, summary, sweep
from tgi_server.report.findings import Findings
from tgi_server.report.metrics import FIRST_P95, TOKENS, WHOLE_P95
from tgi_server.report.noise import difference
from tgi_server.sweep.objective import Objective
from tgi_server.sweep.record import Described, Sweep


def numbers(found: Findings, objective: Objective = Objective.throughput) -> int | None:
    best = Findings(found.sweep, objective).best
    return best.point.number if best else None


def two(a: float = 100.0, b: float = 120.0) -> Sweep:
    return sweep(
        [{"max_waiting_tokens": "20"}, {"max_waiting_tokens": "60"}],
        {1: [summary(a, whole=1.0)], 2: [summary(b, whole=2.0)]},
    )


def test_the_best_is_that_of_the_objective() -> None:
    assert numbers(Findings(two())) == 2
    assert numbers(Findings(two()), Objective.latency) == 1
    assert numbers(Findings(two()), Objective.goodput) == 2


def test_the_best_keeps_the_limits_in_every_repeat() -> None:
    made = sweep([{"a": "1"}, {"a": "2"}], {1: [summary(100.0)] * 2, 2: [summary(200.0), summary(200.0, whole=5.0)]})
    assert numbers(Findings(replace(made, limits={"whole_p95": 2.0}))) == 1
    assert numbers(Findings(replace(made, limits={"whole_p95": 0.1}))) is None
    assert numbers(Findings(replace(made, limits={"ttft_p95": 1.0}))) == 2


def test_a_point_with_failed_requests_is_best_only_where_there_is_no_other() -> None:
    made = sweep([{"a": "1"}, {"a": "2"}], {1: [summary(100.0)], 2: [summary(200.0, failed=3)]})
    assert numbers(Findings(made)) == 1
    assert numbers(Findings(sweep([{"a": "1"}], {1: [summary(100.0, failed=3)]}))) == 1


def test_what_is_not_known_is_never_best() -> None:
    made = sweep([{"a": "1"}, {"a": "2"}], {1: [summary(1.0, whole=math.nan)], 2: [summary(1.0)]})
    assert numbers(Findings(made), Objective.latency) == 2
    made = sweep([{"a": "1"}], {1: [summary(math.nan)]})
    assert numbers(Findings(made)) is None
    assert numbers(Findings(sweep([{"a": "1"}], {}))) is None


def test_the_last_attempt_at_a_repeat_counts() -> None:
    made = sweep([{"a": "1"}, {"a": "2"}], {1: [summary(100.0)], 2: [summary(50.0)]})
    again = replace(made, trials=[failure(1, 1), failure(2, 2), *made.trials])
    (row, other) = Findings(again).rows
    assert (len(row.summaries), row.failures) == (1, [])
    assert (len(other.summaries), [trial.repeat for trial in other.failures]) == (1, [2])


def test_the_reference_is_the_default_under_the_same_load() -> None:
    loads = [("5", 1), ("20", 1), ("5", 8), ("20", 8)]
    points = [
        Described(number, {"max_waiting_tokens": waiting, "clients": str(clients)},
                  {} if waiting == "20" else {"max_waiting_tokens": waiting}, clients)
        for number, (waiting, clients) in enumerate(loads, 1)
    ]  # fmt: skip
    made = sweep([{}] * 4, {1: [summary(10.0)], 2: [summary(9.0)], 3: [summary(40.0)], 4: [summary(30.0)]})
    found = Findings(replace(made, points=points))
    assert found.best is not None and found.best.point.number == 3
    assert found.reference is not None and found.reference.point.number == 4
    assert found.is_default(found.reference) and not found.is_default(found.best)
    without = replace(made, points=points, trials=[trial for trial in made.trials if trial.point != 4])
    first = Findings(without).reference
    assert first is not None and first.point.number == 3


def test_the_front_has_the_points_that_none_beats() -> None:
    values = [(100, 0.1), (100, 0.2), (200, 0.3), (150, 0.4), (300, 0.9), (300, 0.8), (50, math.nan)]
    made = sweep(
        [{"a": str(n)} for n in range(len(values))],
        {n: [summary(tokens, first=first)] for n, (tokens, first) in enumerate(values, 1)},
    )
    assert [row.point.number for row in Findings(made).front(FIRST_P95)] == [1, 3, 6]


def test_effects_compare_the_same_combinations() -> None:
    grid = [("5", "x"), ("5", "y"), ("60", "x"), ("60", "y")]
    made = sweep([{"a": a, "b": b} for a, b in grid], {1: [summary(10.0)], 2: [summary(90.0)], 3: [summary(20.0)]})
    effects = {effect.setting: effect for effect in Findings(made).effects}
    a, b = effects["a"], effects["b"]
    assert a.balanced and [a.mean(value, TOKENS) for value in ("5", "60")] == [10.0, 20.0]
    assert b.balanced and [b.mean(value, TOKENS) for value in ("x", "y")] == [10.0, 90.0]
    assert [len(rows) for rows in a.levels.values()] == [2, 2]


def test_effects_of_points_without_common_combinations_say_so() -> None:
    made = sweep([{"a": "1", "b": "x"}, {"a": "2", "b": "y"}], {1: [summary(10.0)], 2: [summary(30.0)]})
    effect = Findings(made).effects[0]
    assert not effect.balanced and effect.mean("2", TOKENS) == 30.0


def test_values_are_in_order() -> None:
    made = sweep([{"a": value} for value in ("60", "5", "null", "20")], {})
    (effect,) = Findings(made).effects
    assert list(effect.levels) == ["null", "5", "20", "60"]
    assert all(math.isnan(effect.mean(value, TOKENS)) for value in effect.levels)


def test_noise() -> None:
    known = difference([110.0, 112.0, 114.0], [100.0, 102.0, 104.0])
    assert known.mean == pytest.approx(10.0) and known.half == pytest.approx(2.776 * math.sqrt(8 / 3), rel=1e-3)
    assert difference([1.0, math.nan], [2.0, 3.0]).half is None
    assert difference([1.0, 1.0], [3.0, 3.0]).half == 0.0
    uneven = difference([10.0, 20.0, 30.0], [5.0, 5.0, 5.0])
    assert uneven.half == pytest.approx(4.303 * 10 / math.sqrt(3), rel=1e-3)


def test_errors_of_predictions_and_their_order() -> None:
    made = replace(two(100.0, 200.0), predictions={1: summary(110.0), 2: summary(150.0, whole=math.nan)})
    found = Findings(made)
    assert [found.error(row, TOKENS) for row in found.rows] == pytest.approx([0.1, -0.25])
    assert math.isnan(found.error(found.rows[1], WHOLE_P95))
    assert found.tau == 1.0
    assert Findings(replace(made, predictions={1: summary(300.0), 2: summary(150.0)})).tau == -1.0
    assert math.isnan(Findings(replace(made, predictions={1: summary(1.0)})).tau)
    assert len(Findings(plausible()).predicted) == 11
