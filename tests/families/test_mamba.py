from __future__ import annotations

from typing import Any, ClassVar

from tests.families.harness import PastFamilyTests

SIZES: dict[str, Any] = {"hidden_size": 40, "state_size": 12, "num_hidden_layers": 3, "conv_kernel": 4}


class TestMamba(PastFamilyTests):
    """Channels that fill no whole vector."""

    config = "MambaConfig"
    adapted: ClassVar[str | list[str]] = ["in_proj", "x_proj", "dt_proj"]
    numbers: ClassVar[dict[str, Any]] = {**SIZES, "time_step_rank": 6}
    shards = (2, 3, 6)


class TestMambaWithBiases(PastFamilyTests):
    config = "MambaConfig"
    adapted: ClassVar[str | list[str]] = ["in_proj", "x_proj", "dt_proj"]
    numbers: ClassVar[dict[str, Any]] = {
        **SIZES, "hidden_size": 64, "use_bias": True, "use_conv_bias": False, "expand": 3, "conv_kernel": 3,
        "tie_word_embeddings": False,
    }  # fmt: skip
