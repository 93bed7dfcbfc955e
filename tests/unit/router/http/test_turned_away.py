"""Clients that are turned away are counted, and told of without filling the disk."""

import logging

import pytest

from tgi_server.router.http.turned_away import TurnedAway
from tgi_server.telemetry.metrics import Metrics
from tgi_server.telemetry.seldom import SILENCE


def test_all_are_counted_and_some_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now, metrics = [0.0], Metrics(10, 10)
    turned_away = TurnedAway(metrics, lambda: now[0])
    for _ in range(100):
        turned_away.add(429, "too many")
    turned_away.add(400, "what is that")
    assert caplog.messages == [
        "Turned away: 429 Too Many Requests: too many", "Turned away: 400 Bad Request: what is that",
    ]  # fmt: skip
    now[0] += SILENCE
    turned_away.add(429, "too many")
    assert caplog.messages[2:] == ["Turned away: 429 Too Many Requests: too many (100 since the last such line)"]
    assert 'tgi_http_responses{route="other",status="429"} 101' in metrics.render()
