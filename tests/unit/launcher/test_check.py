"""Checks between options: every problem at once, each with a value that works."""

from __future__ import annotations

from typing import Any

import pytest

from tgi_server.config.schema import DType, Part, ServerConfig
from tgi_server.errors import ConfigError
from tgi_server.launcher import check


def problem(**options: Any) -> str:
    with pytest.raises(ConfigError) as error:
        check.options(ServerConfig(**options))
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults_are_fine() -> None:
    check.options(ServerConfig())


def test_limits_are_inclusive_where_they_can_be() -> None:
    check.options(ServerConfig(max_input_length=2047, max_batch_prefill_tokens=2047, max_batch_total_tokens=2048))


def test_each_budget() -> None:
    assert "at most 2047" in problem(max_input_length=2048)
    assert "max_batch_prefill_tokens=100" in problem(max_batch_prefill_tokens=100)
    assert "at most 3000" in problem(max_batch_total_tokens=3000)
    assert "at least 2048" in problem(max_batch_total_tokens=2000, max_batch_prefill_tokens=1500)


def test_a_forced_dtype_does_not_go_with_quantize() -> None:
    quantized = Part("tgi_server.quantize.eetq.Eetq")
    check.options(ServerConfig(quantize=quantized))
    assert "dtype=bfloat16" in problem(quantize=quantized, dtype=DType.bfloat16)


def test_a_chunk_takes_the_place_of_the_prefill_budget() -> None:
    check.options(ServerConfig(max_batch_prefill_tokens=100, prefill_chunk_tokens=64))


def test_a_missing_file() -> None:
    check.options(ServerConfig(tokenizer_config_path=__file__))
    assert (
        problem(tokenizer_config_path="/nowhere/x.json")
        == "tokenizer_config_path=/nowhere/x.json: there is no such file"
    )


def test_all_problems_together() -> None:
    budgets = {"max_input_length": 4000, "max_batch_prefill_tokens": 1000, "max_batch_total_tokens": 900}
    assert problem(**budgets, tokenizer_config_path="/nowhere").count(";") == 4


@pytest.mark.parametrize(("num_shard", "accelerators", "shards"), [
    (None, 0, 1), (None, 1, 1), (None, 4, 4), (2, 4, 2), (3, 0, 3), (1, 4, 1),
])  # fmt: skip
def test_number_of_shards(num_shard: int | None, accelerators: int, shards: int) -> None:
    assert check.number_of_shards(ServerConfig(num_shard=num_shard), accelerators) == shards


def test_too_few_accelerators() -> None:
    with pytest.raises(ConfigError, match="num_shard=2"):
        check.number_of_shards(ServerConfig(num_shard=2), 1)


def test_one_port_for_two_purposes() -> None:
    with pytest.raises(ConfigError, match="master_port=3000"):
        check.number_of_shards(ServerConfig(num_shard=2, master_port=3000), 0)
    assert check.number_of_shards(ServerConfig(num_shard=1, master_port=3000), 0) == 1
