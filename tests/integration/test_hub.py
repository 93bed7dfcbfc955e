"""Models from the hub, against a small server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from safetensors.numpy import save

from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import ModelError
from tgi_server.launcher import weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": save({"a": np.ones((512, 1024), np.float32)}),
    "pytorch_model.bin": b"not wanted",
    "onnx/model.safetensors": b"not wanted",
    "consolidated.safetensors": b"not wanted",
}


class Hub(ThreadingHTTPServer):
    """The model org/model at revision main; everything else does not exist, org/gated may not be read."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.requests.append(path)
        if path.startswith("/api/models/org/gated"):
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path == "/api/models/org/model/revision/main":
            self.answer(200, json.dumps({"id": "org/model", "sha": COMMIT, "siblings": []}).encode())
        elif path.startswith("/api/models/org/model/revision/"):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path == f"/api/models/org/model/tree/{COMMIT}":
            self.answer(200, json.dumps([entry(name) for name in FILES]).encode())
        elif path.removeprefix(f"/org/model/resolve/{COMMIT}/") in FILES:
            self.send_file(path.removeprefix(f"/org/model/resolve/{COMMIT}/"))
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def send_file(self, name: str) -> None:
        content = FILES[name]
        self.answer(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            if len(body) > 1 << 20:
                time.sleep(0.5)  # long enough for progress to be seen
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def entry(name: str) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(FILES[name]), "oid": hashlib.sha1(FILES[name]).hexdigest()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server
        server.shutdown()
        thread.join()


def fetch(model_id: str, cache: Path, revision: str | None = None) -> tuple[Path, list[tuple[str, float]]]:
    seen: list[tuple[str, float]] = []
    options = ModelOptions(model_id=model_id, revision=revision, huggingface_hub_cache=str(cache))
    return weights.fetch(options, DType.float32, lambda *progress: seen.append(progress)), seen


def test_a_model_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    directory, seen = fetch("org/model", tmp_path)
    assert seen
    assert all(stage == "Downloading org/model" and fraction < 0.01 for stage, fraction in seen)
    wanted = {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"}
    assert {path.name for path in directory.iterdir()} == wanted
    hub.requests.clear()
    assert fetch("org/model", tmp_path)[0] == directory
    assert hub.requests == []


def test_a_damaged_cache_is_completed(hub: Hub, tmp_path: Path) -> None:
    directory, _ = fetch("org/model", tmp_path)
    (directory / "tokenizer.json").unlink()
    assert fetch("org/model", tmp_path)[0] == directory
    assert (directory / "tokenizer.json").exists()


def test_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        ModelError, match=r"^model_id=org/model: no such directory, and it cannot be downloaded: [^\n]+$"
    ):
        fetch("org/model", tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"does not hold it completely \(HF_HUB_OFFLINE is set\)$"):
        fetch("org/model", tmp_path)


@pytest.mark.parametrize(
    ("model_id", "revision", "message"),
    [
        ("org/other", None, r"the hub has no such model \(a private one needs HF_TOKEN\)$"),
        ("org/gated", None, r"licence must be accepted first; then set HF_TOKEN$"),
        ("org/model", "v9", r"it has no revision v9$"),
        ("a/b/c", None, r"it is not an id of the hub either$"),
    ],
)
def test_what_the_hub_refuses(hub: Hub, tmp_path: Path, model_id: str, revision: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=f"^model_id={model_id}: no such directory, and .*{message}"):
        fetch(model_id, tmp_path, revision)
