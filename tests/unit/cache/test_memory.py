from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.models import write_llama
from tgi_server.cache.kinds import CacheGroup, CacheKind, without_effect
from tgi_server.cache.memory import (
    CachePlan,
    GroupSize,
    allocate,
    arithmetic,
    free_memory,
    group_sizes,
    plan_tokens,
    within_fraction,
)
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ConfigError
from tgi_server.models.families import read_spec
from tgi_server.types import BLOCK_SIZE

CPU = torch.device("cpu")
FULL = GroupSize(CacheGroup(CacheKind.FULL), 5, 1000)


def blocks(options: BatchingOptions, free: int, *sizes: GroupSize) -> list[int]:
    plan = CachePlan(options, sizes or [FULL])
    return plan.blocks(plan_tokens(options, plan, free))


def test_a_blocks_size_is_what_is_allocated(tmp_path: Path) -> None:
    write_llama(tmp_path)
    spec = read_spec(tmp_path)
    for world in (1, 2, 3, 4):
        sizes = []
        for rank in range(world):
            caches = allocate(spec, [3], world, torch.bfloat16, CPU, rank)
            (size,) = group_sizes(spec, world, torch.bfloat16, rank)
            assert sum(c.keys.nbytes + c.values.nbytes for c in caches) == 3 * size.block_bytes
            assert size.layers == len(spec.pasts)
            sizes.append(size.block_bytes)
        assert group_sizes(spec, world, torch.bfloat16)[0].block_bytes == max(sizes)


def test_memory_of_a_cpu_is_taken_when_it_is_used_or_at_once(tmp_path: Path) -> None:
    write_llama(tmp_path)
    spec = read_spec(tmp_path)
    (size,) = group_sizes(spec, 1, torch.float32)
    count = (128 << 20) // size.block_bytes
    rss = psutil.Process().memory_info
    for written, least, most in ((False, 0.0, 0.2), (True, 0.8, 1.2)):
        before = rss().rss
        caches = allocate(spec, [count], 1, torch.float32, CPU, written=written)
        assert least <= (rss().rss - before) / (128 << 20) <= most
        del caches


def test_inferred_capacity_stops_at_what_requests_can_use() -> None:
    options = BatchingOptions(max_concurrent_requests=3, max_total_tokens=100)
    assert blocks(options, 10**9) == [3 * 7]
    assert blocks(options, 10**4) == [9]


def test_a_given_capacity_is_honoured_or_refused_with_the_largest_that_fits() -> None:
    options = BatchingOptions(max_batch_total_tokens=1000, max_total_tokens=100)
    assert blocks(options, 10**6) == [63]
    with pytest.raises(ConfigError, match=r"max_batch_total_tokens=1000 .* largest value that does is 144"):
        blocks(options, 10**4)


def test_one_request_has_to_fit() -> None:
    options = BatchingOptions(max_total_tokens=200, max_input_length=150)
    with pytest.raises(ConfigError, match=r"max_total_tokens=200 .*: max_input_length=108 max_total_tokens=145$"):
        blocks(options, 10**4)
    with pytest.raises(ConfigError, match="nor does any other length"):
        blocks(options, 1000)
    given = BatchingOptions(max_total_tokens=200, max_input_length=150, max_batch_total_tokens=300)
    with pytest.raises(ConfigError, match=r"max_input_length=108 max_total_tokens=145 max_batch_total_tokens=145$"):
        blocks(given, 10**4)


@pytest.mark.parametrize("window", [None, 40, 100])
@pytest.mark.parametrize("free", [9000, 10**4, 33_333, 10**5])
def test_the_lengths_that_are_told_work_and_longer_ones_do_not(window: int | None, free: int) -> None:
    sizes = [FULL] if window is None else [FULL, GroupSize(CacheGroup(CacheKind.WINDOW, window), 5, 1000)]
    with pytest.raises(ConfigError) as error:
        blocks(BatchingOptions(max_total_tokens=5000, max_input_length=2500), free, *sizes)
    prompt, total = map(int, re.findall(r"max_\w+=(\d+)", str(error.value).partition("do: ")[2]))
    assert blocks(BatchingOptions(max_total_tokens=total, max_input_length=prompt), free, *sizes)[0] > 0
    with pytest.raises(ConfigError):
        blocks(BatchingOptions(max_total_tokens=total + BLOCK_SIZE, max_input_length=prompt + 8), free, *sizes)


def test_a_window_takes_less() -> None:
    """10 requests of 2048 tokens, of whose last 100 a window needs 8 blocks, while prompts of 160 are computed 17."""
    window = GroupSize(CacheGroup(CacheKind.WINDOW, 100), 5, 1000)
    options = BatchingOptions(max_concurrent_requests=10, max_total_tokens=2048, max_input_length=160)
    full, windowed = blocks(options, 10**9, FULL, window)
    assert full == 10 * 128
    assert windowed == 10 * window.group.blocks(160, 2048, 160, 1) + window.group.lasting(1) < full / 4
    with_memory_for_half = blocks(options, 1_000_000, FULL, window)
    assert 0.8 * 10**6 < sum(with_memory_for_half) * 1000 <= 0.9 * 10**6
    assert with_memory_for_half[0] > 1.5 * blocks(options, 1_000_000, FULL, FULL)[0], "more tokens for the same memory"
    shared = BatchingOptions(max_concurrent_requests=10, max_total_tokens=2048, prefix_caching=True)
    assert blocks(shared, 10**9, FULL, window) == [1280, 1280]


def test_a_state_is_one_slot_a_request() -> None:
    state = GroupSize(CacheGroup(CacheKind.STATE), 2, 50_000)
    options = BatchingOptions(max_concurrent_requests=4, max_total_tokens=160)
    assert blocks(options, 10**6, FULL, state) == [40, 4]
    assert blocks(options, 250_000, FULL, state) == [25, 4]
    fewer = BatchingOptions(max_concurrent_requests=4, max_total_tokens=160, max_batch_total_tokens=330)
    assert blocks(fewer, 10**6, state) == [2], "what max_batch_total_tokens has room for"


def test_an_encoders_output_takes_what_prompts_may_have() -> None:
    encoder = GroupSize(CacheGroup(CacheKind.ENCODER), 5, 1000)
    options = BatchingOptions(max_concurrent_requests=4, max_total_tokens=161, max_input_length=33)
    assert blocks(options, 10**6, FULL, encoder) == [40, 12]
    assert blocks(options, 20_000, FULL, encoder) == [13, 4], "never less than one request needs"


def test_states_alone_leave_the_tokens_unlimited_and_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    state = GroupSize(CacheGroup(CacheKind.STATE), 2, 50_000)
    options = BatchingOptions(max_concurrent_requests=4, max_total_tokens=2**20)
    assert blocks(options, 250_000, state) == [4]
    with pytest.raises(ConfigError, match=r"max_concurrent_requests=4: .* the largest value that does is 3"):
        blocks(options, 200_000, state)
    assert list(arithmetic([state], [4], 0, 10**6))[1] == "cache, state, 2 layers: 48.83 KiB a text, 4 texts, 0.00 GiB"


def test_states_are_shared_by_the_ranks(tmp_path: Path) -> None:
    entries = {"model_type": "mamba", "vocab_size": 9, "hidden_size": 12, "num_hidden_layers": 2, "state_size": 5}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    spec = read_spec(tmp_path)
    for world, parts in ((1, [24]), (3, [8, 8, 8]), (5, [4, 5, 5, 5, 5])):
        (size,) = group_sizes(spec, world, torch.bfloat16)
        for rank, part in enumerate(parts):
            caches = allocate(spec, [7], world, torch.bfloat16, CPU, rank)
            assert [tuple(state.shape) for state in caches[0].states] == [(7, 3, part), (7, 5, part)]
            taken = sum(state.nbytes for cache in caches for state in cache.states)
            assert taken == 7 * size.block_bytes or part < max(parts)


def test_the_arithmetic_adds_up() -> None:
    lines = list(arithmetic([FULL], [2**21], 3 * 2**30, 2**32))
    assert lines[0] == "weights: 3.00 GiB"
    assert lines[1] == "cache, full, 5 layers: 0.06 KiB a token, 33554432 tokens in 2097152 blocks, 1.95 GiB"
    assert lines[2] == "left: 2.05 of 4.00 GiB that were free"


def test_free_memory_is_plausible() -> None:
    assert 2**26 < free_memory(CPU, 1.0) < 2**44


@pytest.mark.parametrize(("free", "taken", "fraction", "room"), [
    (80, 20, 1.0, 80),  # alone
    (80, 20, 0.5, 30),
    (30, 20, 0.5, 30),  # another server has its half
    (10, 20, 0.5, 10),  # another program has more than that
    (80, 20, 0.1, 0),
])  # fmt: skip
def test_a_part_of_a_gpu(free: int, taken: int, fraction: float, room: int) -> None:
    assert within_fraction(free, 100, taken, fraction) == room


@pytest.mark.parametrize("kind", CacheKind)
def test_options_without_effect_change_no_cache(kind: CacheKind) -> None:
    """All others do, of these; a sweep over the former keeps the shards."""
    group = GroupSize(CacheGroup(kind, 100 if kind is CacheKind.WINDOW else None), 5, 1000)
    changes: dict[str, Any] = {"max_input_length": 500, "prefill_chunk_tokens": 16, "prefix_caching": True}
    usual = blocks(BatchingOptions(), 10**9, FULL, group)
    unread = {
        name for name, value in changes.items() if blocks(BatchingOptions(**{name: value}), 10**9, FULL, group) == usual
    }
    assert unread == without_effect([CacheKind.FULL, kind])
