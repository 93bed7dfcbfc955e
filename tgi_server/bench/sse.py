"""Server-sent events out of bytes that may be cut anywhere."""

from __future__ import annotations

from collections.abc import Callable


class EventReader:
    """Calls `take` with the text of each `data:` line, as soon as the line is complete.

    One read may hold several events or a part of one. Comments and other fields are passed over.
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
