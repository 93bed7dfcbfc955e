import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.server import series
from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.process import read_process, read_shards


def lines(metrics: Metrics) -> list[str]:
    """Without the texts that explain them."""
    return [line for line in metrics.render().splitlines() if not line.startswith("# HELP")]


def test_nothing_is_shown_before_its_first_update() -> None:
    metrics = Metrics(1000, 2000)
    metrics.counted("tgi_request_count")
    metrics.histogram("tgi_request_duration")
    assert metrics.render() == ""
    metrics.counter("tgi_prefix_cache_hit_tokens", 0)
    assert lines(metrics)[-1] == "tgi_prefix_cache_hit_tokens 0"


def test_counters_and_gauges() -> None:
    metrics = Metrics(1000, 2000)
    told = {"model_sha": "", "dtype": "", "device": "cpu", "shards": "1"}
    metrics.gauge("tgi_info", 1, version="1", model='a "quoted"\\ one\n', **told)
    metrics.counter("tgi_request_failure", err="validation")
    metrics.counter("tgi_request_failure", err="validation")
    metrics.counter("tgi_request_failure", 3, err="dropped")
    metrics.gauge("tgi_queue_size", 7)
    metrics.gauge("tgi_queue_size", 2.5)
    metrics.read("tgi_request_open", [0, 3].pop)
    assert metrics.render().splitlines() == [
        "# HELP tgi_request_failure Requests that ended without one, by what came in between.",
        "# TYPE tgi_request_failure counter",
        'tgi_request_failure{err="validation"} 2',
        'tgi_request_failure{err="dropped"} 3',
        "# HELP tgi_request_open Texts that hold one of the places of max_concurrent_requests.",
        "# TYPE tgi_request_open gauge",
        "tgi_request_open 3",
        "# HELP tgi_queue_size Texts that wait for their first step.",
        "# TYPE tgi_queue_size gauge",
        "tgi_queue_size 2.5",
        "# HELP tgi_info 1; labels say what runs.",
        "# TYPE tgi_info gauge",
        'tgi_info{version="1",model="a \\"quoted\\"\\\\ one\\n",model_sha="",dtype="",device="cpu",shards="1"} 1',
    ]
    assert "\ntgi_request_open 0\n" in metrics.render()


def test_histogram_counts_are_cumulative_and_bounds_inclusive() -> None:
    metrics = Metrics(1000, 2000)
    for length in (10, 11, 5000):
        metrics.observe("tgi_request_input_length", length)
    text = lines(metrics)
    assert text[0] == "# TYPE tgi_request_input_length histogram"
    assert text[1] == 'tgi_request_input_length_bucket{le="10"} 1'
    assert text[2] == 'tgi_request_input_length_bucket{le="20"} 2'
    assert text[100] == 'tgi_request_input_length_bucket{le="1000"} 2'
    assert text[101:] == [
        'tgi_request_input_length_bucket{le="+Inf"} 3',
        "tgi_request_input_length_sum 5021",
        "tgi_request_input_length_count 3",
    ]
    metrics.histogram("tgi_request_input_length").observe(10, 4)
    assert lines(metrics)[1::101] == [
        'tgi_request_input_length_bucket{le="10"} 5', "tgi_request_input_length_sum 5061",
    ]  # fmt: skip


def test_what_is_not_declared_is_not_recorded() -> None:
    metrics = Metrics(1000, 2000)
    for record in (metrics.counter, metrics.gauge, metrics.observe):
        with pytest.raises(KeyError):
            record("tgi_unheard_of", 1)
    with pytest.raises(KeyError):
        metrics.counter("tgi_queue_size")  # which is a gauge
    with pytest.raises(KeyError):
        metrics.read("tgi_request_duration", lambda: 1)
    with pytest.raises(ValueError, match="has the labels"):
        metrics.counter("tgi_request_count", err="dropped")
    with pytest.raises(ValueError, match="has the labels"):
        metrics.observe("tgi_batch_forward_duration", 1)
    with pytest.raises(ValueError, match='no err="bored"'):
        metrics.counter("tgi_request_failure", err="bored")
    with pytest.raises(ValueError, match="no position"):
        metrics.counter("tgi_speculate_guessed_tokens", position="first")
    assert metrics.render() == ""


def test_the_process_tells_of_itself() -> None:
    metrics = Metrics(1000, 2000)
    read_process(metrics)
    with Path(os.devnull).open(), Path(os.devnull).open():
        told = series(metrics.render())
    after = series(metrics.render())
    assert after["process_open_fds"] == told["process_open_fds"] - 2
    assert told["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 1 << 20 < told["process_resident_memory_bytes"] <= 1.01 * peak < told["process_virtual_memory_bytes"] * 1.01
    assert 0 < told["process_cpu_seconds_total"] <= time.process_time()
    assert time.time() - 86400 < told["process_start_time_seconds"] < time.time()


def test_shards_are_told_of_while_they_live() -> None:
    metrics = Metrics(1000, 2000)
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        read_shards(metrics, [os.getpid(), child.pid])
        told = series(metrics.render())
        own = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert 0 < told['tgi_shard_resident_memory_bytes{rank="1"}'] < told['tgi_shard_resident_memory_bytes{rank="0"}']
        assert told['tgi_shard_resident_memory_bytes{rank="0"}'] <= 1.01 * own
        while series(metrics.render())['tgi_shard_cpu_seconds{rank="1"}'] < 0.1:
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    assert [name for name in series(metrics.render()) if 'rank="1"' in name] == []
