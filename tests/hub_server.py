"""A small server on this machine that speaks the HTTP protocol of the hub, and can fail like it."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PAGE = 4
"""Files told in one answer; further ones are on pages of their own."""


@dataclass
class Repository:
    """A model: the files of each commit, and the names of commits."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    token: str | None = None
    gated: bool = False
    pipeline_tag: str | None = None


@dataclass
class Fault:
    """What happens to requests of this method whose path ends like this, as often as `times` says.

    `kind` is a status code, or "cut" and "reset": the connection ends after half of the file.
    """

    method: str
    ending: str
    kind: int | str
    times: int = 1


class Hub(ThreadingHTTPServer):
    """Repositories by their ids; `requests` and `tokens` tell what was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.delay = 0.0
        """Seconds between the halves of a file of more than 1 MiB."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked_for(self, method: str, ending: str) -> int:
        return sum(request.startswith(method) and request.split("?")[0].endswith(ending) for request in self.requests)


@contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {unquote(self.path)} {self.headers.get('Range', '')}".strip())
        path = urlparse(self.path).path.strip("/").split("/")  # still quoted: a revision may hold slashes
        api = path[:2] == ["api", "models"]
        parts = [unquote(part) for part in (path[2:] if api else path)]
        repository = self.server.repositories.get("/".join(parts[:2]))
        fault = self._fault()
        if isinstance(fault, int):
            self._answer(fault, b"trouble")
        elif repository is None:
            self._refuse(404, "RepoNotFound")
        elif self._may_read(repository):
            self._serve(repository, parts[2:], api, fault)

    def _fault(self) -> int | str | None:
        path = unquote(urlparse(self.path).path)
        for fault in self.server.faults:
            if fault.times > 0 and fault.method == self.command and path.endswith(fault.ending):
                fault.times -= 1
                return fault.kind
        return None

    def _may_read(self, repository: Repository) -> bool:
        given = self.headers.get("Authorization")
        self.server.tokens.add(given)
        if repository.gated:
            self._refuse(403, "GatedRepo")
        elif repository.token is None or given == f"Bearer {repository.token}":
            return True
        elif given is None:
            self._refuse(401, "RepoNotFound")
        elif given == "Bearer narrow":
            self._refuse(403)
        else:
            self._answer(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        return False

    def _serve(self, repository: Repository, parts: list[str], api: bool, fault: str | None) -> None:
        kind, revision, *rest = parts if len(parts) > 1 else ("revision", "main")
        commit = revision if revision in repository.commits else repository.refs.get(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        elif not api and "/".join(rest) in repository.commits[commit]:
            self._send_file(repository.commits[commit]["/".join(rest)], commit, fault)
        elif not api:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        elif kind == "tree":
            self._send_tree(repository.commits[commit])
        else:
            siblings = [{"rfilename": name} for name in repository.commits[commit]]
            told = {"id": "model", "sha": commit, "siblings": siblings, "pipeline_tag": repository.pipeline_tag}
            self._answer(200, json.dumps(told).encode())

    def _send_tree(self, files: dict[str, bytes]) -> None:
        start = int(parse_qs(urlparse(self.path).query).get("cursor", ["0"])[0])
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}
            for name, content in list(files.items())[start : start + _PAGE]
        ]
        headers = {}
        if start + _PAGE < len(files):
            path = quote(unquote(urlparse(self.path).path))
            headers["Link"] = f'<{self.server.url}{path}?recursive=true&cursor={start + _PAGE}>; rel="next"'
        self._answer(200, json.dumps(entries).encode(), headers)

    def _send_file(self, content: bytes, commit: str, fault: str | None) -> None:
        headers = {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        if asked is None:
            self._answer(200, content, headers, fault)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206, content[start:], headers, fault)

    def _refuse(self, status: int, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        self._answer(status, b'{"error": "no"}', {**(headers or {}), **({"X-Error-Code": code} if code else {})})

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: str | None) -> None:
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if fault is not None:
            self._hang_up(fault)
            return
        if len(body) > 1 << 20:
            time.sleep(self.server.delay)
        self.wfile.write(body[half:])

    def _hang_up(self, fault: str) -> None:
        if fault == "reset":  # closing with a linger time of 0 sends RST instead of FIN
            time.sleep(0.1)  # what came before has to be read: RST discards it
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        if self.connection.fileno() >= 0:
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass


@cache
def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
