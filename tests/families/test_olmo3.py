from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from tests.families.harness import FamilyTests
from tgi_server.models.families import read_spec
from tgi_server.models.spec import ModelSpec

SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.2,
    "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip


class TestOlmo3(FamilyTests):
    config = "Olmo3Config"
    numbers: ClassVar[dict[str, Any]] = SMALL | {
        "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": YARN | {"rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
        },
    }  # fmt: skip


def test_scaling_as_published_is_that_of_layers_without_a_window(tmp_path: Path) -> None:
    """transformers writes the same in its later form."""
    import transformers

    old = SMALL | {"model_type": "olmo3", "num_hidden_layers": 8, "rope_theta": 5e5, "rope_scaling": YARN}
    old |= {"vocab_size": 101, "eos_token_id": 1}
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps(old))
    transformers.Olmo3Config(**old).save_pretrained(tmp_path / "new")
    spec = read_spec(tmp_path / "old")
    assert isinstance(spec, ModelSpec) and spec == read_spec(tmp_path / "new")
    assert [block.attention.window for block in spec.blocks] == [4096, 4096, 4096, None] * 2
    assert len({block.attention.rope for block in spec.blocks}) == 2
