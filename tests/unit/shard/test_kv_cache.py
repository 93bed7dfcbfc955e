import pytest
import torch

from tgi_server.attention.base import AttentionShape
from tgi_server.config.schema import BatchingOptions
from tgi_server.errors import ConfigError
from tgi_server.shard.kv_cache import allocate, block_bytes, free_memory, plan_blocks, within_fraction

SHAPE = AttentionShape(num_heads=4, num_kv_heads=2, head_dim=8)


def test_a_blocks_size_is_what_is_allocated() -> None:
    caches = allocate(3, SHAPE, layers=5, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert sum(c.keys.nbytes + c.values.nbytes for c in caches) == 3 * block_bytes(SHAPE, 5, torch.bfloat16)


def test_inferred_capacity_stops_at_what_requests_can_use() -> None:
    options = BatchingOptions(max_concurrent_requests=3, max_total_tokens=100)
    assert plan_blocks(options, free=10**9, bytes_per_block=1000) == 3 * 7
    assert plan_blocks(options, free=10**4, bytes_per_block=1000) == 9


def test_a_given_capacity_is_honoured_or_refused_with_the_largest_that_fits() -> None:
    options = BatchingOptions(max_batch_total_tokens=1000, max_total_tokens=100)
    assert plan_blocks(options, free=10**6, bytes_per_block=1000) == 63
    with pytest.raises(ConfigError, match=r"max_batch_total_tokens=1000 .* largest value that does is 144"):
        plan_blocks(options, free=10**4, bytes_per_block=1000)


def test_one_request_has_to_fit() -> None:
    with pytest.raises(ConfigError, match=r"max_total_tokens=200 .* 144"):
        plan_blocks(BatchingOptions(max_total_tokens=200), free=10**4, bytes_per_block=1000)


def test_free_memory_is_plausible() -> None:
    assert 2**26 < free_memory(torch.device("cpu"), 1.0) < 2**44


@pytest.mark.parametrize(("free", "taken", "fraction", "room"), [
    (80, 20, 1.0, 80),  # alone
    (80, 20, 0.5, 30),
    (30, 20, 0.5, 30),  # another server has its half
    (10, 20, 0.5, 10),  # another program has more than that
    (80, 20, 0.1, 0),
])  # fmt: skip
def test_a_part_of_a_gpu(free: int, taken: int, fraction: float, room: int) -> None:
    assert within_fraction(free, 100, taken, fraction) == room
