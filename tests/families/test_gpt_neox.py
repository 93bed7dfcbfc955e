from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests

SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip


class TestGptNeoX(FamilyTests):
    config = "GPTNeoXConfig"
    numbers: ClassVar[dict[str, Any]] = SMALL
    shards = (2, 3, 4)


class TestOneAfterTheOther(FamilyTests):
    config = "GPTNeoXConfig"
    numbers: ClassVar[dict[str, Any]] = SMALL | {"use_parallel_residual": False, "tie_word_embeddings": True}
