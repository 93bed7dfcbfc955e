"""A short run of ./scripts/fuzz, and whether it would tell."""

from __future__ import annotations

import asyncio

import pytest

from tests.documented import DOCUMENT
from tests.fuzz import server, trial
from tests.fuzz.client import Answers, fault, perform
from tests.fuzz.wire import Case

OK = frozenset({200})


def test_nothing_that_clients_send_is_answered_with_a_defect() -> None:
    with server.fake() as tried:
        found = asyncio.run(trial.run(tried, 300, seed=16))
        assert "Success" in tried.log()
    assert found.faults == []
    assert (found.good, sum(found.kinds.values())) == (3, 300)
    assert {200, 400, 404, 408} <= set(found.statuses) and len(found.kinds) > 10


def test_every_route_that_is_described_is_tried() -> None:
    lines = {b"".join(p for p in trial.case(DOCUMENT, 1, i).pieces if isinstance(p, bytes))[:60] for i in range(1500)}
    for path, methods in DOCUMENT["paths"].items():
        begin = path.partition("{")[0].encode()
        assert all(any(line.startswith(m.upper().encode() + b" " + begin) for line in lines) for m in methods), path


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (Answers([500]), "status 500"),
        (Answers([404]), "status 404, which is not documented there"),
        (Answers([]), "no answer"),
        (
            Answers([200], bytearray(b'{"error":"x","error_type":"internal"}')),
            'an answer holds "error_type":"internal"',
        ),
        (Answers([200], broken="x"), "an answer is not HTTP: x"),
        (Answers([200], late=True), "no answer in time"),
        (Answers([200]), None),
    ],
)
def test_faults_are_told(answers: Answers, told: str | None) -> None:
    assert fault(Case("body", [], allowed=OK), answers) == told


@pytest.mark.parametrize(
    ("line", "told"), [("2026 ERROR x", True), ("Traceback (most recent call last):", True), ("INFO Success", False)]
)
def test_lines_that_only_defects_write(line: str, told: bool) -> None:
    assert bool(trial.BAD_LINE.search(line)) == told


def test_growth_is_told() -> None:
    before = {"MB": 100.0, "descriptors": 20.0}
    assert trial.grown(before, {"MB": 119.0, "descriptors": 22.0}) == []
    assert trial.grown(before, {"MB": 140.0, "descriptors": 30.0}) == [
        "MB grew from 100 to 140", "descriptors grew from 20 to 30"
    ]  # fmt: skip


async def test_what_is_no_http_is_seen() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        answers = await perform("127.0.0.1", listening.sockets[0].getsockname()[1], Case("x", [b"GET /"]))
    assert answers.broken
