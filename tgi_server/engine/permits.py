"""How many requests may be inside the server at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tgi_server.errors import OverloadedError, ShuttingDownError


class Permits:
    """Counts requests from before their validation to the end of their answer.

    Attributes:
        draining: set it, and no further request gets in.
        limit: how many there are.
    """

    def __init__(self, limit: int) -> None:
        self.draining = False
        self.limit = limit
        self._free = limit

    @property
    def held(self) -> int:
        """How many are taken."""
        return self.limit - self._free

    @property
    def full(self) -> bool:
        """Whether `permit` raises OverloadedError for lack of places."""
        return self._free <= 0 and not self.draining

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold one permit. Raises OverloadedError when none is left, ShuttingDownError while draining."""
        if self.draining:
            raise ShuttingDownError()
        if self._free <= 0:
            raise OverloadedError()
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
