"""Does what a case says, and judges what the server makes of it."""

from __future__ import annotations

import asyncio
import re
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET

import httptools

from tests.fuzz.wire import Case

DEFECT = re.compile(
    rb'Traceback|"error_type": ?"(internal|generation|incomplete_generation)"|"type": ?"(server_error|api_error)"'
)
"""What no answer holds while the shards are well."""
LONGEST_ANSWER = 120.0
"""Seconds."""


@dataclass
class Answers:
    """What came back."""

    statuses: list[int] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    broken: str | None = None
    closed: bool = False
    late: bool = False


class _Reader:
    """Counts whole answers, which must be HTTP."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.parser = httptools.HttpResponseParser(self)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status >= 200:
            self._answers.statuses.append(status)


async def perform(host: str, port: int, case: Case, patience: float = LONGEST_ANSWER) -> Answers:
    """Act as the case says, on a connection of its own; reads until there are as many answers, or it is closed."""
    answers = Answers()
    reader, writer = await asyncio.open_connection(host, port)
    if case.leaves is not None:  # at once, and whatever the server still sends is not taken
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    try:
        reading = asyncio.create_task(_read(reader, case.answers, answers))
        with suppress(ConnectionError):
            await _write(writer, case, reading)
        if case.leaves is None:
            await asyncio.wait([reading], timeout=patience)
            answers.late = not reading.done()
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled() and (error := reading.exception()) and not isinstance(error, ConnectionError):
            raise error
    finally:
        writer.transport.abort()
    return answers


async def _write(writer: asyncio.StreamWriter, case: Case, reading: asyncio.Task[None]) -> None:
    for piece in case.pieces:
        if isinstance(piece, float):
            await asyncio.wait([reading], timeout=piece)
            continue
        writer.write(piece)
        draining = asyncio.create_task(writer.drain())
        await asyncio.wait([draining, reading], return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        if reading.done():
            return
    if case.leaves:
        await asyncio.sleep(case.leaves)


async def _read(reader: asyncio.StreamReader, wanted: int, answers: Answers) -> None:
    parser = _Reader(answers).parser
    while len(answers.statuses) < wanted:
        data = await reader.read(1 << 16)
        if not data:
            answers.closed = True
            return
        answers.data += data
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            answers.statuses.append(parser.get_status_code())
        except httptools.HttpParserError as error:
            answers.broken = str(error)
            return


def fault(case: Case, answers: Answers) -> str | None:
    """What is wrong with the answers, None if nothing is."""
    if answers.broken is not None:
        return f"an answer is not HTTP: {answers.broken}"
    if defects := [status for status in answers.statuses if status >= 500]:
        return f"status {defects[0]}"
    if found := DEFECT.search(answers.data):
        return f"an answer holds {found[0].decode()}"
    if case.allowed is not None and case.leaves is None:
        if not answers.statuses:
            return "no answer"
        if answers.statuses[0] not in case.allowed:
            return f"status {answers.statuses[0]}, which is not documented there"
    if answers.late and not case.unanswered:
        return "no answer in time"
    return None
