from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestQwen2Moe(FamilyTests):
    config = "Qwen2MoeConfig"
    interpreted_tokens = 1
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": 64, "intermediate_size": 72, "moe_intermediate_size": 24, "num_hidden_layers": 3,
        "shared_expert_intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "num_experts": 6, "num_experts_per_tok": 4, "mlp_only_layers": [2],
        "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2,
    }  # fmt: skip
