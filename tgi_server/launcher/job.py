"""Heavy preparation work in a child process of its own.

The launcher stays small (no numpy, no hub library), the memory of the work is given back when it ends, and the work
can be stopped at any moment, even inside a library call that ignores signals.

The child writes JSON lines to stdout: `["progress", stage, fraction]` several times a second, `["log", …]` for what it
logs, which becomes lines of the launcher's, and one last `["done", result]` or `["failed", message]`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping

from tgi_server.errors import ModelError, TgiError
from tgi_server.launcher.process import for_child

logger = logging.getLogger(__name__)

Report = Callable[[str, float], None]
"""Takes the name of the running stage and how much of it is done, from 0 to 1."""

PROGRESS = "progress"
LOG = "log"
"""The kinds of the lines before the last one."""
_LAST = ("done", "failed")
"""Those of the last one."""
_BEAT = 0.2
"""Seconds between two progress lines."""
_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""


def run(module: str, *arguments: str, report: Report, extra: Mapping[str, str] | None = None) -> str:
    """Run `python -m module arguments`, a program that ends in `perform`, and return its result.

    `extra` are environment variables of the child in addition to those of this process, but for secrets.
    `report` is called at least every 0.2 s; whatever it raises ends the work and is passed on. The child never
    outlives this call, nor this process.

    Raises:
        ModelError: the work failed, with the child's own message, or was killed from outside.
    """
    command = [sys.executable, "-m", module, *arguments]
    # A session of its own: Ctrl-C reaches the launcher only, which then stops the work itself.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",  # of what libraries write there
        start_new_session=True,
        env=for_child(extra),
    ) as child:
        assert child.stdout is not None
        try:
            kind, content = _follow(child.stdout, report)
        except BaseException:
            _stop(child)
            raise
    if kind == "done":
        return content
    if kind == "failed":
        raise ModelError(content)
    if child.returncode < 0:
        raise ModelError(f"the work of {module} was ended by {signal.Signals(-child.returncode).name}")
    if child.returncode != 1:  # with which Python ends after a traceback
        raise ModelError(f"the work of {module} ended without a word, with exit status {child.returncode}")
    raise RuntimeError(f"{module} ended with exit code {child.returncode}")


def _follow(lines: Iterable[str], report: Report) -> tuple[str, str]:
    """Pass progress on until the last message, which is returned; ("", "") when there is none."""
    for line in lines:
        if result := heard(line, report):
            return result
    return "", ""


def heard(line: str | bytes, report: Report) -> tuple[str, str] | None:
    """Take a line of a child: log what is to be logged, report progress, return kind and content of the last one."""
    try:
        kind, *content = json.loads(line)
    except (ValueError, TypeError):
        kind, content = "", []
    if kind == LOG:
        relog(*content)
    elif kind == PROGRESS:
        report(*content)
    elif kind in _LAST:
        return kind, content[0]
    else:  # of a library that writes where it should not
        logger.warning("%s", (line if isinstance(line, str) else line.decode(errors="replace")).rstrip())
    return None


def relog(name: str, level: int, message: str, traceback: str | None) -> None:
    """Log what a child did."""
    source = logging.getLogger(name)
    if source.isEnabledFor(level):
        source.handle(
            logging.makeLogRecord(
                {
                    "name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": message,
                    "exc_text": traceback, "pathname": __file__, "filename": "job.py",
                }
            )
        )  # fmt: skip


def _stop(child: subprocess.Popen[str]) -> None:
    """End the work: at first so that it can clean up, then for certain."""
    child.terminate()
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        child.kill()


def perform(work: Callable[[Report], str]) -> None:
    """The child's side: do the work and write its progress and its result for `run`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unlike the default, lets `work` clean up
    channel = _Channel()
    root = logging.getLogger()
    root.handlers[:] = [_Forward(channel)]
    logging.captureWarnings(True)
    logging.getLogger("tgi_server").setLevel(logging.INFO)
    try:
        result = work(channel.report)
    except TgiError as error:
        channel.finish("failed", str(error))
    except OSError as error:
        channel.finish("failed", f"{error.filename or 'preparing the model'}: {error.strerror or error}")
    else:
        channel.finish("done", result)


class _Channel:
    """Repeats the newest progress from a thread, so that the reader hears of a stage that says nothing for long."""

    def __init__(self) -> None:
        self._out = sys.stdout
        sys.stdout = sys.stderr  # what libraries print must not end up between the messages
        self._progress: tuple[str, float] = ("Starting", 0.0)
        self._finished = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def report(self, stage: str, fraction: float) -> None:
        self._progress = (stage, fraction)

    def log(self, name: str, level: int, message: str, traceback: str | None) -> None:
        self._send(LOG, name, level, message, traceback)

    def finish(self, kind: str, content: str) -> None:
        self._finished.set()
        self._thread.join()
        self._send(kind, content)

    def _beat(self) -> None:
        while not self._finished.wait(_BEAT):
            try:
                self._send(PROGRESS, *self._progress)
            except OSError:
                os._exit(1)  # nobody reads any more: the launcher is gone

    def _send(self, kind: str, *content: str | float | None) -> None:
        with self._lock:
            self._out.write(json.dumps([kind, *content]) + "\n")
            self._out.flush()


class _Forward(logging.Handler):
    """Logs where the launcher does."""

    def __init__(self, channel: _Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; one that cannot be sent is no reason to fail."""
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        with contextlib.suppress(OSError):
            self._channel.log(record.name, record.levelno, record.getMessage(), trace)
