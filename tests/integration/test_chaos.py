"""One round of scripts/chaos with few clients."""

from __future__ import annotations

import pytest

from scripts import chaos

PLAYED = ["kill-shard", "kill-router", "kill-launcher", "stop-shard", "survives", "full"]
"""The others take longer, or need more rights."""


@pytest.mark.alone
@pytest.mark.parametrize("name", PLAYED)
def test_it_comes_out_as_documented(name: str) -> None:
    results = chaos.play(name, clients=4)
    for result in results:
        if result.skipped is not None:
            pytest.skip(result.skipped)
        assert result.problems == [], result.row()
    assert [result.scene for result in results] == (["cut", "step", "term"] if name == "survives" else [name])
