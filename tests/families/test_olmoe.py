from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestOlmoe(FamilyTests):
    config = "OlmoeConfig"
    adapted: ClassVar[list[str]] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    interpreted_tokens = 1
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "num_experts": 6, "num_experts_per_tok": 2,
    }  # fmt: skip
