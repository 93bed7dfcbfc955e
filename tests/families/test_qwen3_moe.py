from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests

SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 72, "moe_intermediate_size": 24, "num_hidden_layers": 3, "head_dim": 16,
    "num_attention_heads": 6, "num_key_value_heads": 3, "max_position_embeddings": 128, "num_experts": 7,
    "num_experts_per_tok": 3,
}  # fmt: skip


class TestQwen3Moe(FamilyTests):
    config = "Qwen3MoeConfig"
    adapted: ClassVar[list[str]] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    interpreted_tokens = 1
    numbers: ClassVar[dict[str, Any]] = SMALL | {"mlp_only_layers": [1], "norm_topk_prob": True}
    shards = (3,)


class TestQwen3MoeInEverySecondLayer(FamilyTests):
    config = "Qwen3MoeConfig"
    adapted: ClassVar[list[str]] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    interpreted_tokens = 1
    numbers: ClassVar[dict[str, Any]] = SMALL | {
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "decoder_sparse_step": 2,
        "attention_bias": True, "use_sliding_window": True, "sliding_window": 20,
    }  # fmt: skip
