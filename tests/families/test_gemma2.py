from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestGemma2(FamilyTests):
    config = "Gemma2Config"
    interpreted_tokens = 16
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128, "sliding_window": 20,
        "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0,
    }  # fmt: skip
