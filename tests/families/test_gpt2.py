from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestGpt2(FamilyTests):
    config = "GPT2Config"
    interpreted_tokens = 16
    numbers: ClassVar[dict[str, Any]] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    shards = (2, 3, 4)
