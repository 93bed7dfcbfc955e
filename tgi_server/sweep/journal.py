"""The writer of a sweep's record: finds what is there, and adds to it line by line."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from tgi_server.bench.summary import Summary
from tgi_server.errors import ConfigError
from tgi_server.sweep import lines
from tgi_server.sweep.record import FILE, Described, Sweep, Trial

_SHOWN = 3
"""Differences that are told where a directory has another sweep's record."""
_VERSION = 1
"""Of the lines."""


@dataclass(frozen=True)
class Identity:
    """What makes a sweep this one.

    Attributes:
        marks: by what it is known again, under names for people.
        facts: see `record.Sweep`.
        limits: likewise.
    """

    marks: Mapping[str, str]
    facts: Mapping[str, str]
    points: Sequence[Described]
    limits: Mapping[str, float]


class Journal:
    """The record of a running sweep; a context manager that closes it.

    Each line is on the disk when its method returns. Where one cannot be written what was there before stays as it was,
    and the method raises ConfigError.

    Attributes:
        sweep: all that has been written.
    """

    def __init__(self, directory: Path, identity: Identity) -> None:
        """Begin a record, or go on with the one that is there.

        Raises:
            ConfigError: it cannot be read or written, another process writes it, or it is another sweep's.
        """
        self._path = directory / FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._failure(error) from None
        try:
            self._found = self._open(identity)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    @property
    def sweep(self) -> Sweep:
        """All that has been written."""
        return Sweep.of(self._found, self._path)

    def add_point(self, point: Described) -> None:
        """Write of a point that was not known when the sweep began."""
        self._add({"kind": "point", "point": asdict(point)})

    def add_trial(self, trial: Trial) -> None:
        """Write what was measured, or that it failed."""
        self._add({"kind": "trial", **asdict(trial)})

    def add_prediction(self, point: int, summary: Summary) -> None:
        """Write what the simulator expects of a point."""
        self._add({"kind": "prediction", "point": point, "summary": asdict(summary)})

    def add_doubt(self, doubt: str | None) -> None:
        """Write why the simulator does not know, or that it does."""
        self._add({"kind": "doubt", "doubt": doubt})

    def _open(self, identity: Identity) -> list[dict[str, Any]]:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise ConfigError(f"{self._path}: not a file")
        self._lock()
        with open(self._file, "rb", closefd=False) as stream:
            data = stream.read()
        found, self._size = lines.parse(data, self._path)
        if not found and data.partition(b"\n")[1]:
            raise ConfigError(f"{self._path}: not the record of a sweep")
        self._found = found
        with self._telling():
            os.ftruncate(self._file, self._size)
        if found:
            self._recognise(found[0], identity)
            facts = {"Command": identity.facts["Command"], "Continued": identity.facts["Time"]}
            self._add({"kind": "start", "facts": facts})
        else:
            self._add(_first(identity))
        return self._found

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"record={self._path.parent}: another process is at this sweep") from None
        except OSError:
            pass  # a file system without locks

    def _recognise(self, first: Mapping[str, Any], identity: Identity) -> None:
        there, here = first.get("marks"), identity.marks
        if first.get("kind") != "sweep" or first.get("lines") != _VERSION or not isinstance(there, dict):
            raise ConfigError(f"{self._path}: not the record of a sweep, or of another version")
        names = [name for name in dict.fromkeys([*there, *here]) if there.get(name) != here.get(name)]
        if names:
            told = [f"{name}: {there.get(name, 'none')} there, {here.get(name, 'none')} here" for name in names]
            more = [f"and {len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
            words = "; ".join([*told[:_SHOWN], *more])
            raise ConfigError(f"record={self._path.parent}: holds the record of another sweep ({words})")

    def _add(self, line: Mapping[str, Any]) -> None:
        data = orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS) + b"\n"
        with self._telling():
            _write(self._file, data)
            os.fsync(self._file)
        self._size += len(data)
        self._found.append(orjson.loads(data))

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Leave nothing of a line that could not be written."""
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> ConfigError:
        return ConfigError(f"record={self._path.parent}: cannot be written ({error.strerror})")


def _first(identity: Identity) -> dict[str, Any]:
    return {
        "kind": "sweep", "lines": _VERSION, "marks": dict(identity.marks), "facts": dict(identity.facts),
        "points": [asdict(point) for point in identity.points], "limits": dict(identity.limits),
    }  # fmt: skip


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
