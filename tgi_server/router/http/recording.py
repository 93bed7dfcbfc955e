"""The option `record_traffic`: lengths and arrivals of requests as lines of a file, never text nor hashes of it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from stat import S_ISREG

from tgi_server import traffic
from tgi_server.batching.prefix import block_keys
from tgi_server.errors import ConfigError, UsageError
from tgi_server.traffic import Asked
from tgi_server.types import BLOCK_SIZE

_MOST_BLOCKS = 65_536
"""Blocks of prompts that are remembered to find shared beginnings; the least recently used are forgotten."""

logger = logging.getLogger(__name__)


class Recorder:
    """Adds a line for each prompt whose generation has ended, in the order of the ends.

    A file that is there already is continued: its lines count, but nothing is shared with them, and the time in between
    is left out. Lines are written by a thread, as soon as they come. When that fails there is one warning and no
    further line.

    Raises ConfigError when the file cannot be continued or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first: float | None = None
        self._blocks = Blocks()
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._stopped = False
        try:
            self._number, self._begin, beginning = traffic.continued(path)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o600)
            state = os.fstat(self._file)
            self._size = state.st_size if S_ISREG(state.st_mode) else None
            self._write(beginning)
        except UsageError as error:
            raise ConfigError(f"record_traffic={path}: {error}") from None
        except OSError as error:
            raise ConfigError(f"record_traffic={path}: cannot be written ({error.strerror})") from None
        self._thread = threading.Thread(target=self._work, name="recording", daemon=True)
        self._thread.start()

    def arrived(self, moment: float) -> None:
        """A request came; times are told from the first one on. Seconds on the caller's clock."""
        if self._first is None:
            self._first = moment

    def ended(self, arrived: float, prompt_ids: Sequence[int], generated: int) -> None:
        """A prompt has got all the tokens that it will get; one without any leaves no line."""
        if self._stopped or not generated or not prompt_ids:
            return
        like, shared = self._blocks.shared(block_keys(prompt_ids), self._number)
        first = arrived if self._first is None else self._first
        at = self._begin + max(0.0, arrived - first)
        self._lines.put(Asked(at, len(prompt_ids), generated, like, shared).line())
        self._number += 1

    def close(self) -> None:
        """Write what is left."""
        self._stopped = True
        self._lines.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                self._write(line)
        except OSError as error:
            self._stopped = True
            logger.warning("record_traffic=%s: cannot be written (%s); recording stops", self._path, error.strerror)
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        left = data
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            if self._size is not None:  # no half line
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
            raise
        if self._size is not None:
            self._size += len(data)


class Blocks:
    """Which line was the first with a block of its prompt, all before it the same."""

    def __init__(self, most: int = _MOST_BLOCKS) -> None:
        self._most = most
        self._lines: OrderedDict[bytes, int] = OrderedDict()

    def shared(self, keys: Sequence[bytes], line: int) -> tuple[int | None, int]:
        """The line and tokens of the longest beginning that is known; `line`, a new one, has blocks of these keys."""
        like, known = None, 0
        for key in keys:
            found = self._lines.get(key)
            if found is None:
                break
            like, known = found, known + 1
        for key in reversed(keys):  # a beginning is forgotten after what follows it
            self._lines.setdefault(key, line)
            self._lines.move_to_end(key)
        while len(self._lines) > self._most:
            self._lines.popitem(last=False)
        return like, known * BLOCK_SIZE
