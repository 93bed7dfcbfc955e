from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests

SMALL: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


class TestLlama(FamilyTests):
    config = "LlamaConfig"
    numbers: ClassVar[dict[str, Any]] = SMALL | {"head_dim": 16, "attention_bias": True, "mlp_bias": True}


class TestTiedLlamaWithRepeatedHeads(FamilyTests):
    config = "LlamaConfig"
    numbers: ClassVar[dict[str, Any]] = SMALL | {
        "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 1, "tie_word_embeddings": True,
    }  # fmt: skip
    shards = (3, 4)
