"""Metrics of several replicas as one text."""

from __future__ import annotations

import json

from tests.integration.server import series
from tgi_server.replicas.merge import labelled, merged, named
from tgi_server.telemetry.metrics import Metrics


def told(requests: int) -> str:
    metrics = Metrics(16, 32)
    metrics.counter("tgi_request_count", requests)
    metrics.counter("tgi_request_failure", 1, err="validation")
    metrics.gauge("tgi_info", 1, version='a "{quoted}" one', model="m", model_sha="", dtype="d", device="c", shards="1")
    metrics.observe("tgi_request_input_length", 3)
    return metrics.render()


def test_every_series_has_its_replica_and_every_metric_its_head_once() -> None:
    text = merged({"a": told(3), "b": told(4)})
    found = series(text)
    assert found['tgi_request_count{replica="a"}'] == 3
    assert found['tgi_request_count{replica="b"}'] == 4
    assert found['tgi_request_failure{replica="b",err="validation"}'] == 1
    assert found['tgi_request_input_length_bucket{replica="a",le="+Inf"}'] == 1
    assert len(found) == 2 * len(series(told(3)))
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert sorted(set(heads)) == sorted(heads)
    assert heads == [line for line in told(3).splitlines() if line.startswith("#")]


def test_the_series_of_a_metric_stay_together_below_its_head() -> None:
    current, seen = "", []
    for line in merged({"a": told(3), "b": told(4), "c": "# HELP x y\n# TYPE x gauge\nx 1\n"}).splitlines():
        if line.startswith("# HELP"):
            current = line.split()[2]
            seen.append(current)
        elif not line.startswith("#"):
            assert line.startswith(current)
    assert len(seen) == len(set(seen)) and "x" in seen


def test_labels_with_anything_in_them_stay_as_they_are() -> None:
    assert labelled('m{l="a{b} c"} 1', "r") == 'm{replica="r",l="a{b} c"} 1'
    assert labelled("m 1", "r") == 'm{replica="r"} 1'


def test_no_replica_tells_nothing() -> None:
    assert merged({}) == ""
    assert merged({"a": ""}) == ""


def test_lines_of_logs_have_their_replica() -> None:
    assert named("2026-01-01 INFO router: hello", "a") == "a 2026-01-01 INFO router: hello"
    assert named("{no json", "a") == "a {no json"
    assert json.loads(named('{"level": "INFO", "fields": {"x": "é"}}', "a")) == {
        "level": "INFO", "fields": {"x": "é"}, "replica": "a",
    }  # fmt: skip
