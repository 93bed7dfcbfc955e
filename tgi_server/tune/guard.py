"""One measurement under way: whether it can still keep the limits, and whether the server kept up with what arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from tgi_server.bench.completion import Record
from tgi_server.bench.summary import summarise
from tgi_server.sweep.objective import Limits

_PART = 0.05
"""Of the requests, or of the gaps between tokens, that may break a limit."""
_SETTLED = 0.25
"""Part of a measurement after which the whole is guessed from it."""


class EndedError(Exception):
    """The measurement does not have to go on; the text says why."""


class Guard:
    """Watches a measurement (`load.Watch`) and raises `EndedError` once it is lost.

    More requests than may are over a limit already, whatever the rest of them does; or something failed, or there is
    nothing to win (`hopeless`).

    Args:
        limits: what is to be kept.
        expected: requests that the measurement will have; guessed from those so far where it is not known before.
        hopeless: why the measurement cannot be good any more, by the part that is done and the records so far.

    Attributes:
        records: those of the measurement so far, warm-up left out; all of them when it is over.
    """

    def __init__(
        self,
        limits: Limits,
        expected: int | None = None,
        hopeless: Callable[[float, Sequence[Record]], str | None] = lambda part, records: None,
    ) -> None:
        self.records: Sequence[Record] = ()
        self._limits = limits
        self._expected = expected
        self._hopeless = hopeless
        self._seen = 0
        self._late = {"first token": 0, "whole answer": 0, "gaps": 0}
        self._gaps = 0

    def __call__(self, part: float, records: list[Record]) -> None:
        """See `load.Watch`."""
        if not records:
            return
        self.records = records
        for record in records[self._seen :]:
            self._count(record)
        self._seen = len(records)
        guessed = round(self._seen / part) if part > _SETTLED else None
        expected = self._expected or guessed
        if expected is not None and (reason := self._lost(expected)):
            raise EndedError(reason)
        if reason := self._hopeless(part, records):
            raise EndedError(reason)

    def _count(self, record: Record) -> None:
        if record.error is not None:
            raise EndedError(f"a request failed: {record.error}")
        limits = self._limits
        self._late["first token"] += _over(record.arrivals[0] - record.start, limits.ttft_p95)
        self._late["whole answer"] += _over(record.end - record.start, limits.whole_p95)
        gaps = [later - earlier for earlier, later in pairwise(record.arrivals)]
        self._late["gaps"] += sum(_over(gap, limits.itl_p95) for gap in gaps)
        self._gaps += len(gaps)

    def _lost(self, expected: int) -> str | None:
        for name in ("first token", "whole answer"):
            if self._late[name] > _PART * expected + 1:  # a percentile lies between two requests
                return f"{self._late[name]} of {expected} requests broke the limit of the {name}"
        guessed = self._gaps * expected / self._seen
        if self._seen > _SETTLED * expected and self._late["gaps"] > _PART * guessed:
            return f"{self._late['gaps']} of about {guessed:.0f} gaps between tokens broke their limit"
        return None


def _over(seconds: float, limit: float | None) -> bool:
    return limit is not None and seconds > limit


def verdict(records: Sequence[Record], limits: Limits, open_loop: bool) -> str | None:
    """Why a whole measurement is no good; None where it keeps the limits and, in an open loop, kept up."""
    summary = summarise(0, records, None)
    if summary.first_error is not None:
        return f"a request failed: {summary.first_error}"
    if not limits.kept(summary):
        return "limits broken"
    return saturated(records) if open_loop else None


def saturated(records: Sequence[Record]) -> str | None:
    """Whether the queue of an open loop grew: how; None where the server kept up.

    Compared are the halves of the arrivals. More than 5 in 100 of the requests that arrived in the second half came on
    top of those that were under way at its beginning; and that is either more than chance makes of a queue that does
    not grow, or answers took half as long again as those of the first half.
    """
    ordered = sorted(records, key=lambda record: record.start)
    half = len(ordered) // 2
    if half < 4:
        return None
    first, second = ordered[:half], ordered[half:]
    before, after = (_under_way(ordered, part[-1].start) for part in (first, second))
    grown = after - before
    if grown <= _PART * len(second):
        return None
    slower = _typical(second) / _typical(first)
    if grown <= 2 * (2 * before + 2) ** 0.5 and slower < 1.5:  # twice the deviation of such counts
        return None
    return f"saturated: {before} requests were under way halfway and {after} at the end, {slower:.1f} times as long"


def _under_way(records: Sequence[Record], moment: float) -> int:
    return sum(record.start <= moment < record.end for record in records)


def _typical(records: Sequence[Record]) -> float:
    return median(record.end - record.start for record in records)
