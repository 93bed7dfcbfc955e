"""Traffic as lengths and arrivals without any text: JSON lines, one request a line. See docs/traffic.md."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from tgi_server.errors import UsageError
from tgi_server.types import BLOCK_SIZE

_VERSION = 1
_MOST_TOKENS = 1 << 24
_LONGEST_TIME = 1e9
_MOST_BYTES = 1 << 28
_NAMES = {"at", "prompt", "new", "like", "shared"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a traffic.

    Attributes:
        at: arrival, in seconds.
        prompt, new: tokens of the prompt, tokens to generate; both from 1 on.
        like: line (from 0, the first line with a version not counted) whose first `shared` tokens its prompt begins
            with; None where it shares nothing.
    """

    at: float
    prompt: int
    new: int
    like: int | None = None
    shared: int = 0

    def line(self) -> bytes:
        """As it stands in a file, with its end of line."""
        told: dict[str, Any] = {"at": round(self.at, 3), "prompt": self.prompt, "new": self.new}
        if self.like is not None:
            told |= {"like": self.like, "shared": self.shared}
        return orjson.dumps(told) + b"\n"


@dataclass(frozen=True)
class Traffic:
    """Requests in the order of their lines, which need not be that of their arrivals."""

    requests: tuple[Asked, ...]
    about: str = ""

    @cached_property
    def order(self) -> Sequence[int]:
        """Lines in the order of arrival."""
        return sorted(range(len(self.requests)), key=lambda line: self.requests[line].at)

    @cached_property
    def period(self) -> float:
        """Seconds from the first arrival until the file begins again: the mean gap after the last one."""
        span = self.requests[self.order[-1]].at - self.requests[self.order[0]].at
        return span * len(self.requests) / (len(self.requests) - 1) if span else 1.0

    @cached_property
    def pieces(self) -> Sequence[tuple[tuple[int, int], ...]]:
        """Whose words each prompt has, as (line, up to this token): prompts begin alike as far as these agree."""
        all_pieces: list[tuple[tuple[int, int], ...]] = []
        for line, asked in enumerate(self.requests):
            pieces = [] if asked.like is None else _beginning(all_pieces[asked.like], asked.shared)
            if asked.shared < asked.prompt:
                pieces.append((line, asked.prompt))
            all_pieces.append(tuple(pieces))
        return all_pieces

    def follows(self, line: int) -> int | None:
        """The line whose conversation this one goes on: it shares the whole of that prompt, in blocks."""
        asked = self.requests[line]
        if asked.like is None or asked.shared == 0:
            return None
        whole = self.requests[asked.like].prompt // BLOCK_SIZE * BLOCK_SIZE
        return asked.like if asked.shared >= whole else None


def _beginning(pieces: Iterable[tuple[int, int]], tokens: int) -> list[tuple[int, int]]:
    begun: list[tuple[int, int]] = []
    for line, stop in pieces:
        if begun and begun[-1][1] >= tokens:
            break
        begun.append((line, min(stop, tokens)))
    return begun if tokens else []


def read(path: Path) -> Traffic:
    """The traffic in a file. Raises UsageError, which names file and line."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: not a file")
        if path.exists() and path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path}: larger than {_MOST_BYTES >> 20} MiB")
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except ValueError:  # a name with a zero byte
        raise UsageError(f"{str(path)!r}: no name of a file") from None


def parse(data: bytes, name: str) -> Traffic:
    """What `read` reads. Raises UsageError."""
    about, requests = "", list[Asked]()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            told = orjson.loads(line)
            if not isinstance(told, dict):
                raise UsageError("expected a JSON object")
            if "traffic" in told and not requests:
                about = _head(told)
            else:
                requests.append(_asked(told, requests))
        except orjson.JSONDecodeError:
            raise UsageError(f"{name}, line {number}: not JSON in UTF-8") from None
        except UsageError as error:
            raise UsageError(f"{name}, line {number}: {error}") from None
    if not requests:
        raise UsageError(f"{name}: has no requests")
    return Traffic(tuple(requests), about)


def write(path: Path, traffic: Traffic) -> None:
    """Write a file, over one that is there. Raises OSError."""
    path.write_bytes(head(traffic.about) + b"".join(asked.line() for asked in traffic.requests))


def continued(path: Path) -> tuple[int, float, bytes]:
    """What to know to add lines to a file: their number from now on, the last arrival, and how to begin.

    Raises UsageError where it has something else, or neither it nor its folder can be written.
    """
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        raise UsageError(f"{path}: cannot be written")
    if not path.is_file() or not path.stat().st_size:
        return 0, 0.0, head("recorded from a server")
    there = read(path)
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        ended = file.read() == b"\n"
    return len(there.requests), max(asked.at for asked in there.requests), b"" if ended else b"\n"


def head(about: str) -> bytes:
    """The first line of a file."""
    return orjson.dumps({"traffic": _VERSION, "about": about}) + b"\n"


def _head(told: dict[str, Any]) -> str:
    if told["traffic"] != _VERSION or type(told["traffic"]) is not int:
        raise UsageError(f"traffic: version {_VERSION} can be read, and no other")
    about = told.get("about", "")
    if not isinstance(about, str) or set(told) - {"traffic", "about"}:
        raise UsageError("expected only a version (traffic) and a text (about)")
    return about


def _asked(told: dict[str, Any], earlier: Sequence[Asked]) -> Asked:
    if unknown := sorted(set(told) - _NAMES):
        raise UsageError(f"{unknown[0][:80]!r} is not one of {', '.join(sorted(_NAMES))}")
    at: Any = told.get("at")
    if type(at) not in (int, float) or not 0 <= at < _LONGEST_TIME or not math.isfinite(at):
        raise UsageError("at: expected seconds from 0 on")
    prompt, new = _tokens(told, "prompt"), _tokens(told, "new")
    if ("like" in told) != ("shared" in told):
        raise UsageError("like and shared belong together")
    if "like" not in told:
        return Asked(float(at), prompt, new)
    like, shared = told["like"], _tokens(told, "shared")
    if type(like) is not int or not 0 <= like < len(earlier):
        raise UsageError("like: expected an earlier line, from 0 on")
    if shared > min(prompt, earlier[like].prompt):
        raise UsageError("shared: more than one of the two prompts has")
    return Asked(float(at), prompt, new, like, shared)


def _tokens(told: dict[str, Any], name: str) -> int:
    value = told.get(name)
    if type(value) is not int or not 1 <= value <= _MOST_TOKENS:
        raise UsageError(f"{name}: expected a number of tokens, from 1 on")
    return value
