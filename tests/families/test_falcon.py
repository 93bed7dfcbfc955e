from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import FamilyTests

SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


class TestFalcon7B(FamilyTests):
    config = "FalconConfig"
    numbers: ClassVar[dict[str, Any]] = SMALL
    shards = (2, 3, 4)


class TestFalcon40B(FamilyTests):
    config = "FalconConfig"
    numbers: ClassVar[dict[str, Any]] = SMALL | {"new_decoder_architecture": True, "num_kv_heads": 2}


class TestFalconWithLinearBiases(FamilyTests):
    """transformers adds the biases twice in its eager attention."""

    config = "FalconConfig"
    implementation = "sdpa"
    numbers: ClassVar[dict[str, Any]] = SMALL | {
        "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True,
    }  # fmt: skip
