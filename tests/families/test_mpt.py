from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestMpt(FamilyTests):
    config = "MptConfig"
    numbers: ClassVar[dict[str, Any]] = {"d_model": 96, "n_heads": 6, "n_layers": 2, "max_seq_len": 128}
    shards = (3, 4)
