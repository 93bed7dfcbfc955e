"""What is kept of a sweep: a file of JSON lines, `record.jsonl` in the sweep's directory, that only grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tgi_server.bench.summary import Percentiles, Summary
from tgi_server.errors import ConfigError
from tgi_server.sweep import lines

FILE = "record.jsonl"
"""Name of the file."""


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
        stopped: why it does not count although `summary` tells what was seen of it: it was ended early, as it could not
            keep the limits or be of interest any more, or the queue grew.
    """

    point: int
    repeat: int
    began: str
    seconds: float
    summary: Summary | None = None
    error: str | None = None
    last_words: Sequence[str] = ()
    stopped: str | None = None


@dataclass(frozen=True)
class Sweep:
    """All that is known of a sweep.

    Attributes:
        facts: version, model, traffic, command, machine and time, by the names under which they are shown.
        trials: in the order in which they were made; of a point that was tried again after a failure the last counts.
        predictions: what the simulator expects of each point, by its number; empty where it was not asked.
        doubt: why the simulator does not know; None where it does.
        limits: latencies that were asked for, in seconds, by the names of `objective.Limits`.
        chosen: the point that a search found to be the best; None where that is to be seen from the numbers.
        result: what the search found, in sentences.
    """

    facts: Mapping[str, str]
    points: Sequence[Described]
    trials: Sequence[Trial]
    predictions: Mapping[int, Summary] = field(default_factory=dict)
    doubt: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    chosen: int | None = None
    result: Sequence[str] = ()

    @classmethod
    def read(cls, directory: Path) -> Sweep:
        """What `journal.Journal` wrote. Raises ConfigError where there is no such file, or it cannot be read."""
        path = directory / FILE
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a file")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"record={directory}: cannot be read ({error.strerror})") from None
        return cls.of(lines.parse(data, path)[0], path)

    @classmethod
    def of(cls, found: Sequence[Mapping[str, Any]], path: Path) -> Sweep:
        """The sweep that these lines of a file tell of. Raises ConfigError."""
        try:
            return _sweep(found)
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: not the record of a sweep ({error!r})") from None

    def failed(self, point: int) -> Trial | None:
        """The last attempt at a point of which nothing was measured; None where something was, or nothing tried."""
        tried = [trial for trial in self.trials if trial.point == point]
        return tried[-1] if tried and not self.good(point) else None

    def good(self, point: int) -> list[Summary]:
        """The measurements of a point that count, one a repeat."""
        trials = [trial for trial in self.trials if trial.point == point and trial.stopped is None]
        return [trial.summary for trial in trials if trial.summary is not None]


def summary_of(values: Mapping[str, Any]) -> Summary:
    """A summary out of its JSON, where numbers that do not exist are null."""
    numbers: dict[str, Any] = {
        name: _percentiles(value) if isinstance(value, dict) else value for name, value in values.items()
    }
    for name in ("new_tokens", "events"):
        numbers[name] = _number(values[name])
    return Summary(**numbers)


def _sweep(found: Sequence[Mapping[str, Any]]) -> Sweep:
    first = found[0]
    facts, trials, predictions, doubt = dict(first["facts"]), list[Trial](), dict[int, Summary](), None
    points = [Described(**point) for point in first["points"]]
    for line in found[1:]:
        match line["kind"]:
            case "trial":
                trials.append(_trial(line))
            case "prediction":
                predictions[line["point"]] = summary_of(line["summary"])
            case "doubt":
                doubt = line["doubt"]
            case "point":
                points.append(Described(**line["point"]))
            case "start":
                facts |= line["facts"]
    return Sweep(facts, points, trials, predictions, doubt, first["limits"])


def _trial(line: Mapping[str, Any]) -> Trial:
    values = {name: value for name, value in line.items() if name != "kind"}
    summary = values["summary"]
    read = {"summary": summary and summary_of(summary), "last_words": tuple(values["last_words"])}
    return Trial(**{**values, **read})


def _percentiles(values: Mapping[str, float | None]) -> Percentiles:
    return Percentiles(**{name: _number(value) for name, value in values.items()})


def _number(value: float | None) -> float:
    return math.nan if value is None else value
