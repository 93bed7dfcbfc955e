"""Servers that several test modules share; each is started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.server import Server


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
