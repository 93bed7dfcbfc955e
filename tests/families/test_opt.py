from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests


class TestOpt(FamilyTests):
    config = "OPTConfig"
    numbers: ClassVar[dict[str, Any]] = {
        "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 128, "word_embed_proj_dim": 64,
    }  # fmt: skip
