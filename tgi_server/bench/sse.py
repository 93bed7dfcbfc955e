"""Server-sent events out of bytes that may be cut anywhere."""

from __future__ import annotations

from collections.abc import Callable

_LONGEST = 1 << 20
"""Bytes of a line; a real event has some hundred."""


class EventReader:
    """Calls `take` with the text of each `data:` line, as soon as the line is complete.

    One read may hold several events or a part of one. Comments and other fields are passed over. A line that does not
    end is refused (ConnectionError).
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._take(line[5:].strip())
        if len(self._rest) > _LONGEST:
            raise ConnectionError(f"the answer has a line of more than {_LONGEST >> 20} MiB")
