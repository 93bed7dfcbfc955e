from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests

SMALL: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}


class TestStarCoder(FamilyTests):
    config = "GPTBigCodeConfig"
    numbers: ClassVar[dict[str, Any]] = SMALL
    shards = (2, 3, 4)


class TestManyHeads(FamilyTests):
    config = "GPTBigCodeConfig"
    numbers: ClassVar[dict[str, Any]] = SMALL | {"multi_query": False}
