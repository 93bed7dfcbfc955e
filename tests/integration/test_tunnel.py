"""The server behind a tunnel, as far as that goes without the service of the tunnel."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.integration.listening import listening
from tgi_server.config.schema import NetworkOptions
from tgi_server.errors import ConfigError
from tgi_server.router.http import tunnel

BODY = {"inputs": "x", "parameters": {"max_new_tokens": 2}}
EVERYTHING = [("GET", "/info"), ("POST", "/generate"), ("POST", "/generate_stream"), ("GET", "/v1/models")]


async def test_the_own_address_serves_health_and_metrics_only(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as private:
        private.bind(str(tmp_path / "router"))
        private.listen()
        through = httpx.AsyncHTTPTransport(uds=str(tmp_path / "router"))
        async with listening(ngrok=True, also=[private]) as (_, port):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as local:
                for path in ("/health", "/livez", "/metrics", "/readyz", "/startupz"):
                    assert (await local.get(path)).status_code == 200
                for method, path in [*EVERYTHING, ("GET", "/"), ("GET", "/health/"), ("GET", "//metrics")]:
                    answer = await local.request(method, path, json=BODY)
                    assert (answer.status_code, answer.content) == (404, b"")
            async with httpx.AsyncClient(transport=through, base_url="http://tunnel") as remote:
                for method, path in [*EVERYTHING, ("GET", "/"), ("GET", "/health"), ("GET", "/metrics")]:
                    assert (await remote.request(method, path, json=BODY)).status_code == 200


async def test_everything_is_local_without_a_tunnel() -> None:
    async with tunnel.opened(NetworkOptions()) as sockets:
        assert sockets == []
    async with listening() as (_, port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as local:
        for method, path in EVERYTHING:
            assert (await local.request(method, path, json=BODY)).status_code == 200


async def test_a_service_that_cannot_be_reached_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # so that the variable is read
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    options = NetworkOptions(ngrok=True, ngrok_authtoken="secret", ngrok_edge="edghts_x")
    with pytest.raises(ConfigError, match="ngrok=true: ") as refusal:
        async with tunnel.opened(options):
            pass
    assert "secret" not in str(refusal.value) and "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir()), "the socket is gone"


@pytest.mark.parametrize(("options", "words"), [
    ("ngrok=True, ngrok_authtoken='t', ngrok_edge='e'", "the package ngrok is not installed; pip install ngrok"),
    ("otlp_endpoint='http://localhost:4317'", "OpenTelemetry are not installed; pip install 'tgi-server[otlp]'"),
])  # fmt: skip
def test_missing_packages_are_told_before_anything_starts(options: str, words: str) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('ngrok', 'opentelemetry'));"  # as if they were not installed
        "from tgi_server.config.schema import ServerConfig; from tgi_server.launcher import check;"
        f"check.options(ServerConfig({options}), {{}}, 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert words in done.stderr.splitlines()[-1]
