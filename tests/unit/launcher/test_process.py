"""What children of the launcher inherit."""

from __future__ import annotations

import json
import sys
import time

import pytest

from tgi_server.config.schema import ServerConfig, secrets, without_secrets
from tgi_server.launcher import places, process


def test_children_inherit_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "NGROK_AUTHTOKEN", "HF_TOKEN", "HF_API_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "secret-1")
    for name in ("AWS_SECRET_ACCESS_KEY", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        monkeypatch.setenv(name, "secret-1")
    monkeypatch.setenv("HF_HOME", "/x")
    child = process.for_child({"A": "b"})
    assert "secret-1" not in child.values()
    assert (child["HF_HOME"], child["A"]) == ("/x", "b") and "PATH" in child


def test_only_routers_show_the_collector_who_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=x")
    monkeypatch.setenv("AWS_PROFILE", "x")
    assert process.for_tracing()["OTEL_EXPORTER_OTLP_HEADERS"] == "authorization=x"
    assert "AWS_PROFILE" not in process.for_tracing()


def test_only_who_asks_the_hub_gets_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_1")
    monkeypatch.setenv("API_KEY", "k")
    extra = places._hub_environment()
    assert extra["HF_TOKEN"] == "hf_1" and "API_KEY" not in extra


def test_a_configuration_without_secrets() -> None:
    config = ServerConfig(api_key="k", ngrok_authtoken="t", port=7)
    bare = without_secrets(config)
    assert secrets() >= {"api_key", "ngrok_authtoken"}
    assert (bare.api_key, bare.ngrok_authtoken, bare.port) == (None, None, 7) and config.api_key == "k"


TELLS = """
import logging
from tgi_server.config.schema import TelemetryOptions
from tgi_server.telemetry.logging import setup
setup(TelemetryOptions(json_output=True), "router")
logging.getLogger("tgi_server").error("\\U0001f600" * 9000, extra={"more": "\\U0001f600" * 9000})
"""


def test_the_longest_line_stays_one(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with process.Children() as children:
        child = children.start("router", [sys.executable, "-c", TELLS], "", {})
        deadline = time.monotonic() + 30
        while child.alive and time.monotonic() < deadline:
            children.poll()
        children.hear_out(child, 5)
    (line,) = capfdbinary.readouterr().out.splitlines()
    assert len(line) > 65536 and json.loads(line)["level"] == "ERROR"
