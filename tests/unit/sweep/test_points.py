"""Points out of tasks, and the order in which they are measured."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.unit.sweep.stages import tasks
from tgi_server.errors import UsageError
from tgi_server.sweep.objective import Objective
from tgi_server.sweep.options import SweepOptions
from tgi_server.sweep.order import order, same_shards
from tgi_server.sweep.points import points_of


def test_settings_are_what_differs_as_it_is_written() -> None:
    found = points_of(tasks("model=smollm2", "max_waiting_tokens=5,20", "quantize=none,bitsandbytes-nf4", "clients=4"))
    assert [point.settings for point in found] == [
        {"max_waiting_tokens": "5", "quantize": "none"},
        {"max_waiting_tokens": "5", "quantize": "bitsandbytes-nf4"},
        {"max_waiting_tokens": "20", "quantize": "none"},
        {"max_waiting_tokens": "20", "quantize": "bitsandbytes-nf4"},
    ]
    assert [point.number for point in found] == [1, 2, 3, 4]
    assert found[1].name == "max_waiting_tokens=5 quantize=bitsandbytes-nf4"


def test_presets_are_told_by_their_names_and_spelled_out_among_the_options() -> None:
    found = points_of(tasks("model=smollm2", "batching=default,latency", "output=/tmp/${max_batch_size}", "api_key=k"))
    assert [point.settings for point in found] == [{"batching": "default"}, {"batching": "latency"}]
    assert found[0].described().options == {"model": "smollm2"}
    assert found[1].described().options == {"model": "smollm2", "max_batch_size": "8", "max_waiting_tokens": "100"}


@pytest.mark.parametrize("words", [["clients=1,8"], ["clients='1,8'"], ["clients='1, 8'", "seed=3"]])
def test_each_number_of_clients_is_a_point(words: list[str]) -> None:
    found = points_of(tasks(*words))
    assert [point.settings for point in found] == [{"clients": "1"}, {"clients": "8"}]
    assert [point.work.clients for point in found] == [(1,), (8,)]
    assert [point.described().clients for point in found] == [1, 8]


def test_clients_are_no_setting_where_they_are_the_same() -> None:
    found = points_of(tasks("clients=4", "request_rate=2.5,5"))
    assert [point.settings for point in found] == [{"request_rate": "2.5"}, {"request_rate": "5"}]
    assert [(each.clients, each.rate) for each in (point.described() for point in found)] == [(4, 2.5), (4, 5.0)]


def test_a_field_of_a_part_and_of_the_job() -> None:
    (point,) = points_of(tasks("quantize=bitsandbytes-nf4", "quantize.block=32", "new_tokens=9"))
    assert (point.settings, point.name) == ({}, "point 1")
    assert point.described().options == {"quantize": "bitsandbytes-nf4", "quantize.block": "32"}


def test_secrets_are_not_told() -> None:
    found = points_of(tasks("api_key=s3cret,other"))
    assert "s3cret" not in repr([point.described() for point in found])
    assert [point.settings for point in found] == [{"api_key": "***"}, {"api_key": "***"}]


def test_a_load_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="clients=x"):
        points_of(tasks("clients=x,8"))


def test_the_order_goes_to_and_fro_and_keeps_shards_together() -> None:
    found = points_of(tasks("max_waiting_tokens=5,20", "quantize=none,eetq", clients="1,2"))
    turns = order(found, 3)
    first, second, third = ([turn.point.number for turn in turns if turn.repeat == repeat] for repeat in (1, 2, 3))
    assert first == third == [1, 2, 5, 6, 3, 4, 7, 8]
    assert second == first[::-1]
    assert [turn.repeat for turn in turns] == [1] * 8 + [2] * 8 + [3] * 8
    starts = [1 for one, other in pairwise(turns) if not same_shards(one.point, other.point)]
    assert len(starts) == 3


@pytest.mark.parametrize(("options", "words"), [
    (SweepOptions(objective=Objective.latency), "objective=latency: is for sweeps"),
    (SweepOptions(simulate=False), "simulate=false: is for sweeps"),
])  # fmt: skip
def test_what_a_single_measurement_has_no_use_for(options: SweepOptions, words: str) -> None:
    SweepOptions(repeats=2).refuse_of_sweeps()
    with pytest.raises(UsageError, match=words):
        options.refuse_of_sweeps()
