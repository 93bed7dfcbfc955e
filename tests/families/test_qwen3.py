from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestQwen3(FamilyTests):
    config = "Qwen3Config"
    interpreted_tokens = 16
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
    }  # fmt: skip
