from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestQwen2(FamilyTests):
    config = "Qwen2Config"
    interpreted_tokens = 16
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "use_sliding_window": True, "sliding_window": 9,
        "max_window_layers": 1,
    }  # fmt: skip
