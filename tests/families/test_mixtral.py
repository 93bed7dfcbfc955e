from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestMixtral(FamilyTests):
    config = "MixtralConfig"
    interpreted_tokens = 2
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "num_local_experts": 5, "num_experts_per_tok": 2,
        "sliding_window": 20,
    }  # fmt: skip
