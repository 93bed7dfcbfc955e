from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests

SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


class TestPhi3(FamilyTests):
    config = "Phi3Config"
    numbers: ClassVar[dict[str, Any]] = SMALL | {
        "sliding_window": 25, "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0 + i / 8 for i in range(8)],
            "long_factor": [2.0 + i for i in range(8)],
        },
    }  # fmt: skip


class TestPhi4PartlyTurned(FamilyTests):
    config = "Phi3Config"
    numbers: ClassVar[dict[str, Any]] = SMALL | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
    }  # fmt: skip
