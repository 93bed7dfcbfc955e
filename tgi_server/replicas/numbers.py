"""How many replicas there are, are wanted and were lost. Stdlib only."""

from __future__ import annotations

from collections.abc import Mapping


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
        running = states.get("RUNNING", 0)
        wanted = sum(states.values()) - states.get("STOPPING", 0)
        fewer_wanted = max(0, self.wanted - wanted)
        self.lost += max(0, self.running - running - fewer_wanted)
        self.running, self.wanted = running, wanted
