"""Times between tokens, and the state that is told when somebody asks."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.integration.server import series
from tgi_server.batching.scheduler import Scheduler
from tgi_server.batching.sequence import Progress, Sequence
from tgi_server.config.schema import BatchingOptions
from tgi_server.engine.gauges import read_state
from tgi_server.engine.observer import BatchObserver
from tgi_server.engine.permits import Permits
from tgi_server.rpc.fake import FAKE_INFO
from tgi_server.telemetry.metrics import Metrics
from tgi_server.types import CacheKind, GenerationRequest, GroupInfo, Outcome, SamplingParams, StoppingParams


def sequence(id: int, received: float | None = None) -> Sequence:
    stopping = StoppingParams(max_new_tokens=100)
    request = GenerationRequest(prompt_ids=[1] * 40, sampling=SamplingParams(), stopping=stopping)
    return Sequence(id, request, received=received)


def scheduler(*groups: GroupInfo) -> Scheduler:
    return Scheduler(BatchingOptions(), replace(FAKE_INFO, groups=list(groups)))


def test_gaps_are_those_of_each_sequence_whoever_pauses() -> None:
    chance = random.Random(5)
    metrics, plans = Metrics(1024, 2048), scheduler(GroupInfo(CacheKind.FULL, None, 64))
    observer = BatchObserver(metrics, prefix_caching=False)
    everybody = [sequence(id, received=0.5 if id % 3 else None) for id in range(9)]
    last: dict[int, float] = {}
    gaps, first = [], []
    plans.add(everybody[0])
    plan = plans.plan(0.0)
    assert plan is not None
    for step in range(1, 60):
        now = step + chance.random()
        moved = [each for each in everybody if chance.random() < 0.7]
        progresses = [Progress(each, [7] * chance.choice([0, 1, 1, 1, 2]), [], []) for each in moved]
        for progress in progresses:
            id, count = progress.sequence.id, len(progress.tokens)
            if count:
                if id in last:
                    gaps += [(now - last[id]) / count] * count
                elif progress.sequence.received is not None:
                    first.append(now - 0.5)
                last[id] = now
        observer.planned(plans, plan, now)
        observer.received(Outcome(0, [], [], [], []), now)
        observer.delivered(progresses, 0.25, 0.5)
    told = series(metrics.render())
    assert told["tgi_request_inter_token_duration_count"] == len(gaps) > 200
    assert told["tgi_request_inter_token_duration_sum"] == pytest.approx(sum(gaps))
    bound = 0.0001 * 1.5**23  # 1.1 s
    below = [value for name, value in told.items() if f'inter_token_duration_bucket{{le="{bound!r}"' in name]
    assert below == [sum(gap <= bound for gap in gaps)] and 0 < below[0] < len(gaps)
    assert told["tgi_request_first_token_duration_count"] == len(first) == 6
    assert told["tgi_request_first_token_duration_sum"] == pytest.approx(sum(first))
    assert told['tgi_batch_filter_duration_sum{method="prefill"}'] == 59 * 0.25
    assert told['tgi_batch_decode_duration_sum{method="prefill"}'] == 59 * 0.5


def test_each_group_of_layers_has_a_name() -> None:
    metrics, permits = Metrics(1024, 2048), Permits(3)
    plans = scheduler(GroupInfo(CacheKind.FULL, None, 40), GroupInfo(CacheKind.WINDOW, 32, 20))
    read_state(metrics, permits, plans)
    plans.add(sequence(0))
    assert series(metrics.render())["tgi_queue_size"] == 1
    plans.plan(0.0)
    with permits.permit():
        told = series(metrics.render())
    assert told['tgi_cache_blocks{group="full"}'] == 40 and told['tgi_cache_blocks{group="window-32"}'] == 20
    used = told['tgi_cache_used_blocks{group="full"}'], told['tgi_cache_used_blocks{group="window-32"}']
    assert 0 < used[1] < used[0] and told["tgi_cache_usage"] == max(used[0] / 40, used[1] / 20)
    assert told['tgi_cache_info{block_size="16",num_gpu_blocks="20"}'] == 1
    assert (told["tgi_queue_size"], told["tgi_batch_current_size"]) == (0, 1)
    assert (told["tgi_request_open"], told["tgi_request_open_limit"]) == (1, 3)
