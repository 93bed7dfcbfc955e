import json
from pathlib import Path
from typing import Any

import pytest

from tgi_server.errors import ConfigError, ModelError
from tgi_server.models.spec import read_spec

LLAMA = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 36, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
}  # fmt: skip


def write(directory: Path, **changes: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(LLAMA | changes))
    return directory


def test_both_spellings_of_rope(tmp_path: Path) -> None:
    assert read_spec(write(tmp_path, rope_theta=5e5)).rope.theta == 5e5
    new = read_spec(write(tmp_path, rope_parameters={"rope_theta": 7.0, "rope_type": "linear", "factor": 4}))
    old = read_spec(write(tmp_path, rope_theta=7, rope_scaling={"type": "linear", "factor": 4.0}))
    assert new.rope == old.rope and new.rope.parameters == {"factor": 4.0}


def test_generation_config_names_all_end_of_sequence_ids(tmp_path: Path) -> None:
    assert read_spec(write(tmp_path)).eos_token_ids == (2,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert read_spec(tmp_path).eos_token_ids == (2, 7)


@pytest.mark.parametrize("n", [1, 3, 9])
def test_heads_can_be_split(tmp_path: Path, n: int) -> None:
    read_spec(write(tmp_path)).check_shards(n)


@pytest.mark.parametrize("n", [2, 4, 6, 18])
def test_heads_cannot_be_split(tmp_path: Path, n: int) -> None:
    with pytest.raises(ConfigError, match=f"num_shard={n}: .*9 attention heads and 3 .* work: 1, 3, 9$"):
        read_spec(write(tmp_path)).check_shards(n)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "bloom"}, "model_type 'bloom'.*llama"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope type 'yarn'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"vocab_size": None}, "config.json"),
    ],
)
def test_what_is_not_served_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        read_spec(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[]", '{"model_type": ', "\x00"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_spec(tmp_path)
