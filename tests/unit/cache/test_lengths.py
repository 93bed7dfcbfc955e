"""Lengths that are `auto`: the largest that the model was made for and the memory holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_server.cache.kinds import CacheGroup, CacheKind
from tgi_server.cache.lengths import UNLIMITED, is_open, longest, settled, shortest
from tgi_server.cache.memory import CachePlan, GroupSize, plan_tokens
from tgi_server.config.schema import AUTO, BatchingOptions, ServerConfig
from tgi_server.errors import ConfigError

OPEN = BatchingOptions(max_total_tokens=AUTO, max_input_length=AUTO)
FULL = GroupSize(CacheGroup(CacheKind.FULL), 5, 1000)


def pair(options: BatchingOptions) -> tuple[int, int]:
    return options.max_input_length, options.max_total_tokens


def settle(options: BatchingOptions, positions: int | None, free: int, *sizes: GroupSize) -> BatchingOptions:
    plan = CachePlan(longest(options, positions), sizes or [FULL])
    return settled(options, positions, lambda shorter: plan.of(shorter).fits_one(free))


def test_what_is_open() -> None:
    assert is_open(OPEN) and is_open(BatchingOptions(max_input_length=AUTO))
    assert not is_open(BatchingOptions())


@pytest.mark.parametrize(("options", "positions", "lengths"), [
    ({}, 1000, (999, 1000)),
    ({}, 8192, (4096, 8192)),
    ({"prefill_chunk_tokens": 256}, 8192, (8191, 8192)),
    ({"max_batch_prefill_tokens": 100}, 8192, (100, 8192)),
    ({}, None, (4096, UNLIMITED)),
    ({"max_batch_total_tokens": 5000}, 8192, (4096, 5000)),
    ({"max_input_length": 50}, 8192, (50, 8192)),
    ({"max_total_tokens": 300}, 8192, (299, 300)),
    ({"max_total_tokens": 300, "max_input_length": 7}, 8192, (7, 300)),
])  # fmt: skip
def test_without_a_limit_of_memory(options: dict[str, int], positions: int | None, lengths: tuple[int, int]) -> None:
    values: dict[str, Any] = {"max_total_tokens": AUTO, "max_input_length": AUTO, **options}
    asked = BatchingOptions(**values)
    assert pair(longest(asked, positions)) == pair(settle(asked, positions, 10**12)) == lengths


def test_the_least() -> None:
    assert pair(shortest(OPEN)) == (1, 2)
    assert pair(shortest(BatchingOptions(max_total_tokens=AUTO, max_input_length=70))) == (70, 71)
    assert pair(shortest(BatchingOptions(max_input_length=AUTO))) == (2047, 2048)


def test_all_other_options_stay() -> None:
    config = ServerConfig(max_total_tokens=AUTO, port=99)
    assert longest(config, 5000) == ServerConfig(max_total_tokens=5000, port=99)


@given(st.integers(4_000, 10**6), st.one_of(st.none(), st.integers(20, 300)), st.sampled_from([None, 16, 64]))
def test_they_fit_and_longer_ones_do_not(free: int, window: int | None, chunk: int | None) -> None:
    sizes = [FULL] if window is None else [FULL, GroupSize(CacheGroup(CacheKind.WINDOW, window), 5, 1000)]
    asked = BatchingOptions(
        max_total_tokens=AUTO, max_input_length=AUTO, prefill_chunk_tokens=chunk, max_batch_prefill_tokens=300
    )
    found = settle(asked, 5000, free, *sizes)

    def fits(options: BatchingOptions) -> bool:
        try:
            return plan_tokens(options, CachePlan(options, sizes), free) > 0
        except ConfigError:
            return False

    if found == shortest(asked):  # nothing fits, or hardly more
        return
    assert fits(found)
    assert found.max_total_tokens == 5000 or not fits(longest(asked, found.max_total_tokens + 1))


def test_a_prompt_that_was_asked_for_is_kept_and_refused_where_it_does_not_fit() -> None:
    """18 blocks are there, of 16 tokens."""
    asked = BatchingOptions(max_total_tokens=AUTO, max_input_length=100)
    assert pair(settle(asked, 5000, 20_000)) == (100, 289)
    asked = BatchingOptions(max_total_tokens=AUTO, max_input_length=400)
    told = settle(asked, 5000, 20_000)
    assert pair(told) == (400, 401)
    with pytest.raises(ConfigError, match=r"max_total_tokens=401 does not fit .* max_input_length=288"):
        plan_tokens(told, CachePlan(told, [FULL]), 20_000)
