"""How many replicas there are, are wanted and were lost. Stdlib only."""

from __future__ import annotations

from collections.abc import Mapping

_RUNNING = ("RUNNING", "RECOVERING", "PENDING_MIGRATION")
"""States of those that take requests: the second is what Serve says when it was itself started anew, the third of one
that goes as soon as there is another in its place."""

_ENDING = ("STOPPING", "STOPPED")


class Numbers:
    """Of one deployment, as of the last look at it.

    Attributes:
        running: that take requests.
        wanted: that Ray Serve keeps or starts at present.
        lost: that stopped running though they were wanted, since the start.
    """

    def __init__(self) -> None:
        self.running = 0
        self.wanted = 0
        self.lost = 0

    def see(self, states: Mapping[str, int]) -> None:
        """Take over how many replicas are in which of Ray Serve's states."""
        running = sum(states.get(state, 0) for state in _RUNNING)
        wanted = sum(count for state, count in states.items() if state not in _ENDING)
        fewer_wanted = max(0, self.wanted - wanted)
        self.lost += max(0, self.running - running - fewer_wanted)
        self.running, self.wanted = running, wanted
