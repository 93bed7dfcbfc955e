"""What is kept of a sweep: a file of JSON lines, `record.jsonl` in the sweep's directory, that only grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tgi_server.bench.summary import Summary


@dataclass(frozen=True)
class Described:
    """A point, as the record and the report know it.

    Attributes:
        settings: see `points.Point`.
        options: everything by which it differs from the documented defaults, as it would be on the command line, job
            and traffic left aside: `{"model": "smollm2", "max_waiting_tokens": "5"}`. Secrets are not among it.
        clients: requests at a time, or the most of them where `rate` requests a second arrive.
    """

    number: int
    settings: Mapping[str, str]
    options: Mapping[str, str]
    clients: int
    rate: float | None = None


@dataclass(frozen=True)
class Trial:
    """One measurement of one point, or the attempt.

    Attributes:
        repeat: from 1 on.
        began: time in UTC, ISO 8601.
        seconds: that it took, starts included.
        summary: what was measured; None where that failed.
        error: why it failed.
        last_words: the last lines of the process that failed.
    """

    point: int
    repeat: int
    began: str
    seconds: float
    summary: Summary | None = None
    error: str | None = None
    last_words: Sequence[str] = ()


@dataclass(frozen=True)
class Sweep:
    """All that is known of a sweep.

    Attributes:
        facts: version, model, traffic, command, machine and time, by the names under which they are shown.
        trials: in the order in which they were made; of a point that was tried again after a failure the last counts.
        predictions: what the simulator expects of each point, by its number; empty where it was not asked.
        doubt: why the simulator does not know; None where it does.
        limits: latencies that were asked for, in seconds, by the names of `objective.Limits`.
    """

    facts: Mapping[str, str]
    points: Sequence[Described]
    trials: Sequence[Trial]
    predictions: Mapping[int, Summary] = field(default_factory=dict)
    doubt: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)

    def good(self, point: int) -> list[Summary]:
        """The measurements of a point, one a repeat."""
        return [trial.summary for trial in self.trials if trial.point == point and trial.summary is not None]
