"""What a launcher asks of those of other nodes, and the answers where there are none (`nodes` has the others)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from tgi_server.launcher.nodes.agreement import Facts


class Stops(Protocol):
    """What has heard of signals: `supervise.StopSignals`."""

    @property
    def requested(self) -> bool:
        """Whether one has come."""

    def check(self) -> None:
        """Raise StoppedError when one has come."""

    def request(self) -> None:
        """Do as if one had."""


@dataclass(frozen=True)
class Agreed:
    """What all nodes know once each of them has the model.

    Attributes:
        hosts: address of each node; empty where there is only one.
        key: what the router shows to shards of other nodes.
    """

    hosts: list[str] = field(default_factory=list)
    key: str | None = None


class Alone:
    """A server on one machine. Entered before anything slow, left when nothing runs any more."""

    def __init__(self, stop: Stops) -> None:
        self._stop = stop

    def __enter__(self) -> Alone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell the others that this node ends, and why."""

    def check(self) -> None:
        """Raise StoppedError when a signal has come, ChildFailedError when another node is lost or fails."""
        self._stop.check()

    def agree(self, files: Callable[[], Facts]) -> Agreed:
        """Tell the others that the model is here, with these files, and wait until all have it.

        Raises ChildFailedError when another node is lost or fails, ConfigError or ModelError when they do not agree.
        """
        return Agreed()

    def serving(self) -> None:
        """Tell the others that this node's shards are ready."""

    @property
    def ready(self) -> bool:
        """Whether the shards of all nodes are, as far as this one has to wait for that."""
        return True

    @property
    def problem(self) -> str | None:
        """Why the whole service has to end, as another node says or is lost."""
        return None

    def end(self, reason: str | None) -> None:
        """Tell the others that all is over; once."""

    def explained(self, failure: str) -> str:
        """Tell the others of a failure here. Returns it with what they say to that, which may be its cause."""
        return failure

    def may_leave(self) -> bool:
        """Ask the others for an end in order. Whether this node may leave by now."""
        return True
