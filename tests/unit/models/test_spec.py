import json
from pathlib import Path
from typing import Any

import pytest

from tgi_server.config.schema import Launch, Resolved, RopeOptions, RopeScaling, ServerConfig
from tgi_server.errors import ConfigError, ModelError
from tgi_server.models.spec import read_spec
from tgi_server.rope.spec import RopeSpec
from tgi_server.shard.main import check

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


@pytest.mark.parametrize(("options", "factor"), [
    ({"rope_factor": 2.5}, 2.5), ({"rope_scaling": RopeScaling.linear}, 1.0),
    ({"rope_scaling": RopeScaling.linear, "rope_factor": 4.0}, 4.0),
])  # fmt: skip
def test_the_options_overrule_rope(tmp_path: Path, options: dict[str, Any], factor: float) -> None:
    scalings: list[dict[str, Any] | None] = [None, {"type": "linear", "factor": 8.0}, {"rope_type": "yarn"}]
    for scaling in scalings:
        spec = read_spec(write(tmp_path, rope_theta=7, rope_scaling=scaling), RopeOptions(**options))
        assert spec.rope == RopeSpec(7.0, "linear", {"factor": factor})
        assert spec.max_positions == 64 * factor


def test_without_options_the_model_says(tmp_path: Path) -> None:
    directory = write(tmp_path, rope_scaling={"type": "linear", "factor": 8.0})
    assert read_spec(directory, RopeOptions()) == read_spec(directory)


def test_longer_texts_fit_a_stretched_model(tmp_path: Path) -> None:
    resolved = Resolved(model_dir=str(write(tmp_path)))
    with pytest.raises(ConfigError, match="max_total_tokens=128 is more than the 64 positions"):
        check(Launch(ServerConfig(max_total_tokens=128), resolved))
    assert check(Launch(ServerConfig(max_total_tokens=128, rope_factor=2.0), resolved)).max_positions == 128
    with pytest.raises(ConfigError, match="max_total_tokens=129 is more than the 128 positions"):
        check(Launch(ServerConfig(max_total_tokens=129, rope_factor=2.0), resolved))


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
