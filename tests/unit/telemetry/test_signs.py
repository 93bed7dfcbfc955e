"""Signs of life, as the launcher reads them."""

import asyncio

import pytest

from tgi_server.telemetry import signs
from tgi_server.types import LEAVES, SIGN


def test_the_last_sign_of_a_thread_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), signs.of_a_thread(lambda: None):
        raise ZeroDivisionError
    assert capfd.readouterr().err.splitlines() == [SIGN, LEAVES]


async def test_the_last_sign_of_a_loop_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with signs.of_this_loop():
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert capfd.readouterr().err.splitlines() == [SIGN, LEAVES]
