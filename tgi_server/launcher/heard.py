"""What is heard of servers on a stage: that they answer, what they log, what a program in a router's place finds."""

from __future__ import annotations

import contextlib
import http.client
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tgi_server.config.schema import NetworkOptions
from tgi_server.launcher import job
from tgi_server.launcher.supervise import StoppedError

_POLL = 0.1
"""Seconds between two questions whether the server is ready."""
_READY = 30.0
"""Seconds for one answer to that."""


class Answer:
    """The lines that a program of `job.perform` writes.

    Attributes:
        result: kind and content of the last one; None until that is there.
    """

    def __init__(self, report: Callable[[str, float], None]) -> None:
        self.result: tuple[str, str] | None = None
        self._report = report

    def take(self, line: bytes) -> None:
        """The next line."""
        self.result = job.heard(line, self._report) or self.result


@contextmanager
def lines_to(path: Path | None) -> Iterator[None]:
    """Have the launcher's lines, and those it passes on, appended to a file; to where they go if it is None."""
    if path is None:
        yield
        return
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    file = path.open("a", encoding="utf-8", errors="backslashreplace")
    try:
        with contextlib.redirect_stdout(file):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        with contextlib.suppress(OSError):  # a full disk is no reason to fail
            file.close()


def await_ready(options: NetworkOptions, over: Callable[[], bool]) -> None:
    """Wait until the configured server answers. Raises StoppedError when it is `over` before."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.hostname, options.hostname)
    while True:
        if over():
            raise StoppedError
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _answers(host, options.port):
                return
        time.sleep(_POLL)


def _answers(host: str, port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=_READY)) as connection:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
