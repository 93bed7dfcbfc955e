"""Servers that several test modules share, each started once; and a browser."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.integration.server import Server

if TYPE_CHECKING:
    from playwright.async_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def float32_server() -> Iterator[Server]:
    """One shard of the demo model in float32."""
    with Server("model=smollm2", "dtype=float32") as server:
        yield server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One shard of the demo model as a user gets it."""
    with Server("model=smollm2") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Chromium, for the tests of a module that run in one loop; they are skipped where there is none."""
    from playwright.async_api import async_playwright

    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()
