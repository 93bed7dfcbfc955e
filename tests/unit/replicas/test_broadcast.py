"""Who answers is heard, whatever others do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tgi_server.replicas.broadcast import Asked, answers


class One:
    """A replica's answer after so many seconds."""

    def __init__(self, says: Any, after: float = 0) -> None:
        self.cancelled = False
        self._says, self._after = says, after

    async def get_async(self) -> Any:
        await asyncio.sleep(self._after)
        if isinstance(self._says, Exception):
            raise self._says
        return self._says

    def cancel(self) -> None:
        self.cancelled = True


async def asking(some: Sequence[Asked]) -> Sequence[Asked]:
    return some


async def test_those_that_answer_are_heard_and_the_others_are_not_waited_for() -> None:
    some = [One("late", 600), One("soon", 0.02), One("now"), One(RuntimeError("dead"))]
    assert [each async for each in answers(asking(some), 0.5)] == ["now", "soon"]
    assert [each.cancelled for each in some] == [True, False, False, False]


async def test_who_has_heard_enough_takes_back_the_rest() -> None:
    some = [One("late", 600), One("now")]
    began, heard = time.monotonic(), answers(asking(some), 600)
    async for each in heard:
        assert each == "now"
        break
    await heard.aclose()
    assert some[0].cancelled and time.monotonic() - began < 60


async def test_a_question_that_cannot_be_asked() -> None:
    async def never() -> Sequence[Asked]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(TimeoutError):
        await anext(answers(never(), 0.05))
