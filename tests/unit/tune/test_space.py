"""What is searched is what clients do not notice, and what nobody has set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import pytest

from tgi_server.config import cli, load
from tgi_server.config.arguments import Arguments
from tgi_server.config.schema import BatchingOptions, ServerConfig
from tgi_server.errors import UsageError
from tgi_server.jobs.base import Task
from tgi_server.launcher import check
from tgi_server.launcher.main import _varied
from tgi_server.tune.space import PAUSING, combinations, composed, searched, sketched, values, written


def tasks(*argv: str) -> list[Task]:
    return [task(each) for each in load.combinations(cli.parse(argv, {}))]


def task(arguments: Arguments) -> Task:
    run = load.composition(arguments)
    return Task(run, load.instantiate(run.config.job), arguments)


def test_promises_to_clients_stay() -> None:
    promises = {"max_concurrent_requests", "max_input_length", "max_total_tokens", "max_batch_total_tokens"}
    assert set(values(ServerConfig())) == {field.name for field in fields(BatchingOptions)} - promises


@pytest.mark.parametrize("changed", [
    {}, {"max_input_length": 30, "max_total_tokens": 40}, {"max_batch_total_tokens": 4096},
    {"max_concurrent_requests": 3},
])  # fmt: skip
def test_every_combination_starts(changed: Mapping[str, int]) -> None:
    config = ServerConfig(**changed)  # type: ignore[arg-type]  # names are checked by what is constructed
    found = list(combinations(searched(config, {})))
    assert found[0] == {} and [len(each) for each in found] == sorted(len(each) for each in found)
    assert len({tuple(each.items()) for each in found}) == len(found) > 50
    for settings in found:
        check.options(ServerConfig(**{**changed, **settings}), {}, 0)  # type: ignore[arg-type]
        assert settings.get("prefill_chunk_tokens") is None or not set(PAUSING) & settings.keys()


def test_what_was_set_stays_and_the_default_comes_first() -> None:
    space = searched(ServerConfig(max_waiting_tokens=7), {"max_waiting_tokens": "command line"})
    assert "max_waiting_tokens" not in space
    assert all(some[0] == getattr(ServerConfig(), name) for name, some in space.items())
    assert all(len(set(map(repr, some))) == len(some) for some in space.values())


def test_a_sketch_is_what_the_command_line_makes() -> None:
    (base,) = tasks("job=bench", "max_concurrent_requests=64")
    sketch = sketched(base, {"max_waiting_tokens": 5, "max_batch_size": None, "prefix_caching": True})
    assert sketch.name == "max_waiting_tokens=5 max_batch_size=null prefix_caching=true"
    made = composed(base, sketch, _varied)
    assert made.task.run.config == sketch.task.run.config and made.settings == sketch.settings
    assert made.task.run.config.max_concurrent_requests == 64 and base.run.config.max_waiting_tokens == 20


def test_combinations_that_were_written() -> None:
    some = tasks("-m", "job=bench", "model=smollm2", "max_waiting_tokens=5,20", "quantize=none,eetq")
    found = written(some, _varied)
    assert [candidate.name for candidate in found] == [
        "documented defaults", "max_waiting_tokens=5", "quantize=eetq", "max_waiting_tokens=5 quantize=eetq"
    ]  # fmt: skip
    assert found[0].task in some and {id(each.task) for each in found} == {id(each) for each in some}


def test_the_defaults_join_where_they_were_not_written() -> None:
    found = written(tasks("-m", "job=bench", "max_waiting_tokens=5", "max_batch_size=4,8", "port=9"), _varied)
    assert [candidate.settings for candidate in found] == [{}, {"max_batch_size": "4"}, {"max_batch_size": "8"}]
    base = found[0].task.run.config
    assert (base.max_waiting_tokens, base.max_batch_size, base.port) == (5, None, 9), "only what is varied has defaults"


def test_another_model_is_no_default() -> None:
    found = written(tasks("-m", "job=bench", "model=smollm2,default"), _varied)
    assert [candidate.name for candidate in found] == ["documented defaults", "model_id=bigscience/bloom-560m"]


def test_fields_of_parts_can_be_candidates() -> None:
    found = written(tasks("-m", "job=bench", "quantize=gptq", "quantize.bits=3,4"), _varied)
    assert {candidate.settings.get("quantize.bits") for candidate in found} >= {"3", "4"}


def test_another_load_is_no_candidate() -> None:
    with pytest.raises(UsageError, match="clients, new_tokens: job=tune compares configurations under one load"):
        written(tasks("-m", "job=bench", "clients=1,8", "new_tokens=5,6"), _varied)
