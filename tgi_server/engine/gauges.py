"""What there is to say of requests, queue and cache at any moment; looked up when somebody asks for the metrics."""

from __future__ import annotations

from functools import partial

from tgi_server.batching.blocks import BlockPool
from tgi_server.batching.scheduler import Scheduler
from tgi_server.engine.permits import Permits
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import BLOCK_SIZE


def read_state(metrics: Metrics, permits: Permits, scheduler: Scheduler) -> None:
    """Have it told with `metrics`."""
    metrics.read("tgi_request_open", lambda: permits.held)
    metrics.gauge("tgi_request_open_limit", permits.limit)
    metrics.read("tgi_queue_size", lambda: scheduler.waiting)
    metrics.read("tgi_batch_current_size", lambda: scheduler.running)
    metrics.read("tgi_batch_current_max_tokens", lambda: scheduler.reserved_tokens)
    _read_cache(metrics, scheduler.pools)


def _read_cache(metrics: Metrics, pools: dict[str, BlockPool]) -> None:
    metrics.read("tgi_cache_usage", lambda: max(pool.used / max(1, pool.total) for pool in pools.values()))
    for group, pool in pools.items():
        metrics.read("tgi_cache_used_blocks", partial(getattr, pool, "used"), group=group)
        metrics.read("tgi_cache_kept_blocks", partial(getattr, pool, "kept"), group=group)
        metrics.gauge("tgi_cache_blocks", pool.total, group=group)
    fewest = min(pool.total for pool in pools.values())
    metrics.gauge("tgi_cache_info", 1, block_size=str(BLOCK_SIZE), num_gpu_blocks=str(fewest))
