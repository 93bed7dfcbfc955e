from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests

SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


class TestOlmo2(FamilyTests):
    """Three ranks have two key/value heads: two of them share one, and its part of the mean square."""

    config = "Olmo2Config"
    numbers: ClassVar[dict[str, Any]] = SMALL | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    shards = (2, 3, 4)
