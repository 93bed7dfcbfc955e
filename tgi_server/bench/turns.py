"""Whose turn it is in a closed loop."""

from __future__ import annotations

from collections.abc import Iterator

from tgi_server.bench.workload import Request


class Turns:
    """Gives out requests in their order, but none before the one that it goes on from is done.

    One that has to wait is passed over, so that no client waits: if need be the next round of the traffic begins.
    """

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests
        self._passed: list[Request] = []
        self._open: set[int] = set()

    def take(self) -> Request:
        """The next one, which counts as under way or waiting until it is `done`."""
        for index, request in enumerate(self._passed):
            if request.after not in self._open:
                return self._passed.pop(index)
        while True:
            request = next(self._requests)
            self._open.add(request.number)
            if request.after not in self._open:
                return request
            self._passed.append(request)

    def done(self, request: Request) -> None:
        """Its answer is complete, or failed."""
        self._open.discard(request.number)
