from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestBloom(FamilyTests):
    """Heads that are no power of two have slopes of two series."""

    config = "BloomConfig"
    interpreted_tokens = 16
    numbers: ClassVar[dict[str, Any]] = {"hidden_size": 96, "n_layer": 2, "n_head": 6}
    shards = (3, 4)
