"""Descriptions of models: what they are read from, what is refused, which rows of the checkpoint are whose."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tgi_server.config.schema import AUTO, DType, RopeOptions, RopeScaling, ServerConfig
from tgi_server.errors import ConfigError, ModelError
from tgi_server.models.check import check, check_cuts, check_memory, described
from tgi_server.models.description import Description, LayerShape
from tgi_server.models.families import read_spec
from tgi_server.models.files import TensorInfo
from tgi_server.models.spec import ModelSpec, Source, alibi_slopes, interleaved, side_by_side
from tgi_server.quantize.base import IN, OUT, Axis, Stored
from tgi_server.quantize.eetq import Eetq
from tgi_server.quantize.none import NoQuantize
from tgi_server.rope.base import Rope
from tgi_server.rope.linear import LinearRope

F32 = DType.float32
LLAMA = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 36, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
}  # fmt: skip


def write(directory: Path, **changes: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(LLAMA | changes))
    return directory


def rope_of(spec: Description) -> Rope:
    assert isinstance(spec, ModelSpec)
    rope = spec.blocks[0].attention.rope
    assert rope is not None
    return rope


def test_both_spellings_of_rope(tmp_path: Path) -> None:
    assert vars_of(rope_of(read_spec(write(tmp_path, rope_theta=5e5))))["theta"] == 5e5
    new = read_spec(write(tmp_path, rope_parameters={"rope_theta": 7.0, "rope_type": "linear", "factor": 4}))
    old = read_spec(write(tmp_path, rope_theta=7, rope_scaling={"type": "linear", "factor": 4.0}))
    assert rope_of(new) == rope_of(old) == LinearRope(4, 7.0, 4.0)


def vars_of(rope: Rope) -> dict[str, Any]:
    return {name: getattr(rope, name) for name in rope.__dataclass_fields__}  # type: ignore[attr-defined]


def test_a_base_by_layer_type(tmp_path: Path) -> None:
    parameters = {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    spec = read_spec(
        write(
            tmp_path, rope_parameters=parameters, sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
        )
    )  # fmt: skip
    assert isinstance(spec, ModelSpec)
    ropes = [block.attention.rope for block in spec.blocks]
    assert [vars_of(rope)["theta"] for rope in ropes if rope] == [1e4, 1e6]
    assert ropes[1] == LinearRope(4, 1e6, 8.0)
    assert [block.attention.window for block in spec.blocks] == [16, None]


@pytest.mark.parametrize(("options", "factor"), [
    ({"rope_factor": 2.5}, 2.5), ({"rope_scaling": RopeScaling.linear}, 1.0),
    ({"rope_scaling": RopeScaling.linear, "rope_factor": 4.0}, 4.0),
])  # fmt: skip
def test_the_options_overrule_rope(tmp_path: Path, options: dict[str, Any], factor: float) -> None:
    scalings: list[dict[str, Any] | None] = [None, {"type": "linear", "factor": 8.0}, {"rope_type": "yarn"}]
    for scaling in scalings:
        spec = read_spec(write(tmp_path, rope_theta=7, rope_scaling=scaling), RopeOptions(**options))
        assert rope_of(spec) == LinearRope(4, 7.0, factor)
        assert spec.max_positions == 64 * factor


def test_without_options_the_model_says(tmp_path: Path) -> None:
    directory = write(tmp_path, rope_scaling={"type": "linear", "factor": 8.0})
    assert read_spec(directory, RopeOptions()) == read_spec(directory)


def test_longer_texts_fit_a_stretched_model(tmp_path: Path) -> None:
    model = write(tmp_path)
    with pytest.raises(ConfigError, match="max_total_tokens=128 is more than the 64 positions"):
        described(model, ServerConfig(max_total_tokens=128), 1, F32)
    assert described(model, ServerConfig(max_total_tokens=128, rope_factor=2.0), 1, F32).max_positions == 128
    with pytest.raises(ConfigError, match="max_total_tokens=129 is more than the 128 positions"):
        described(model, ServerConfig(max_total_tokens=129, rope_factor=2.0), 1, F32)


@pytest.mark.parametrize(("scaling", "longest"), [
    (None, 64),
    ({"type": "linear", "factor": 4.0}, 256),
    ({"type": "dynamic", "factor": 2.0}, 128),
    ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
    ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8}, 64),
])  # fmt: skip
def test_a_checkpoints_own_scaling_stretches_too(tmp_path: Path, scaling: dict[str, Any] | None, longest: int) -> None:
    model = write(tmp_path, rope_scaling=scaling)
    assert described(model, ServerConfig(max_total_tokens=longest), 1, F32).max_positions == longest
    with pytest.raises(ConfigError, match=f"max_total_tokens={longest} works"):
        described(model, ServerConfig(max_total_tokens=longest + 1), 1, F32)


def test_a_prompt_is_shorter_than_what_the_model_was_made_for(tmp_path: Path) -> None:
    model = write(tmp_path)
    assert described(model, ServerConfig(max_total_tokens=AUTO, max_input_length=63), 1, F32).max_positions == 64
    words = "max_input_length=64 leaves no room for an answer within the 64 tokens .* max_input_length=63 works"
    with pytest.raises(ConfigError, match=words):
        described(model, ServerConfig(max_total_tokens=AUTO, max_input_length=64), 1, F32)


def test_a_type_that_is_too_small(tmp_path: Path) -> None:
    model = write(tmp_path, model_type="gemma2", head_dim=4)
    spec = described(model, ServerConfig(max_total_tokens=64), 1, DType.bfloat16)
    assert isinstance(spec, ModelSpec) and spec.head.softcap == 30.0
    with pytest.raises(ConfigError, match=r"dtype=float16: .*dtype=bfloat16 works"):
        described(model, ServerConfig(max_total_tokens=64), 1, DType.float16)


def test_memory_is_refused_only_for_what_is_loaded(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, tie_word_embeddings=True))
    options = ServerConfig(max_total_tokens=64)
    shapes = {"model.embed_tokens.weight": (100, 36), "lm_head.weight": (10**6, 36), "other.mask": (10**6,)}
    infos = {name: TensorInfo(tmp_path, "BF16", shape, 0, 2 * math.prod(shape)) for name, shape in shapes.items()}
    cache = 2 * 4 * 64 * 2 * 3 * 4  # layers, bytes, positions, keys and values, heads, width
    needed = 100 * 36 * 4 + cache
    check_memory(spec, options, infos, F32, NoQuantize(), needed)
    with pytest.raises(ConfigError, match=r"does not fit in the free memory, 0.0 GiB: its weights take") as error:
        check_memory(spec, options, infos, F32, NoQuantize(), needed - 1)
    assert str(error.value).endswith("; max_input_length=47 max_total_tokens=48 may work")
    with pytest.raises(ConfigError, match=r"max_total_tokens=64 takes 0.0 GiB$"):
        check_memory(spec, options, infos, F32, NoQuantize(), 100 * 36 * 4)


def test_memory_of_weights_that_are_quantised_while_they_load(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, tie_word_embeddings=True))
    infos = {
        name: TensorInfo(tmp_path, "BF16", tuple(shape), 0, 2 * math.prod(shape)) for name, shape in spec.tensors()
    }
    layers = sum(math.prod(shape) for _, shape in spec.tensors() if isinstance(shape, LayerShape))
    others = sum(math.prod(shape) for _, shape in spec.tensors()) - layers
    cache = 2 * 4 * 64 * 2 * 3 * 4
    needed = layers + 4 * others + cache
    check_memory(spec, ServerConfig(max_total_tokens=64), infos, F32, Eetq(), needed)
    with pytest.raises(ConfigError, match="does not fit in the free memory"):
        check_memory(spec, ServerConfig(max_total_tokens=64), infos, F32, Eetq(), needed - 1)


def test_generation_config_names_all_end_of_sequence_ids(tmp_path: Path) -> None:
    assert read_spec(write(tmp_path)).eos_token_ids == (2,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert read_spec(tmp_path).eos_token_ids == (2, 7)


def test_any_number_of_ranks_up_to_the_heads(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path))
    for n in range(1, 10):
        check(spec, ServerConfig(max_total_tokens=64), n, F32)
    with pytest.raises(ConfigError, match=r"num_shard=10: .*9 attention heads and 3 .* work: 1 to 9$"):
        check(spec, ServerConfig(max_total_tokens=64), 10, F32)
    with pytest.raises(ConfigError, match=r"these numbers work: 1$"):
        check(read_spec(write(tmp_path, vocab_size=1)), ServerConfig(max_total_tokens=64), 2, F32)


GROUPED = {"codes": Stored((IN, Axis("out", 4)), ("I32",)), "scale": Stored((Axis("in", 16), OUT), exact=True)}
"""Four outputs in each element of the codes, 16 inputs in each of the scales."""


def test_what_is_stored_together_is_not_cut(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, hidden_size=72, num_attention_heads=18, num_key_value_heads=6, head_dim=8))
    stored = GROUPED
    for n in (1, 3):  # 18 heads of 8 numbers are 9 groups
        check_cuts(spec, n, stored)
    with pytest.raises(ConfigError, match=r"num_shard=2: .* 4 outputs and 16 inputs .* numbers work: 1, 3$"):
        check_cuts(spec, 2, stored)
    check_cuts(spec, 7, NoQuantize().stored())


def test_every_rank_has_a_part_of_what_is_stored_together(tmp_path: Path) -> None:
    heads = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 6}
    spec = read_spec(write(tmp_path, **heads, intermediate_size=16))
    with pytest.raises(ConfigError, match=r"num_shard=3: .* numbers work: 1 to 2$"):  # two pieces of 8 features
        check_cuts(spec, 3, {"codes": Stored((Axis("in", 8), OUT), ("I32",))})


def test_all_that_is_wrong_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_shard=12: .*; max_total_tokens=2048 is more"):
        check(read_spec(write(tmp_path)), ServerConfig(), 12, F32)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba2"}, "model_type 'mamba2'.*bloom, .*gpt2, .*llama"),
        ({"model_type": ["llama"]}, "model_type"),
        (
            {"vision_config": {"hidden_size": 8}},
            r"model_type 'llama' reads more than text \(vision_config\), which is not",
        ),
        (
            {"model_type": "gemma3", "text_config": LLAMA, "vision_config": {"hidden_size": 8}},
            "'gemma3' reads more than",
        ),
        ({"hidden_act": "tanh"}, "hidden_act='tanh'"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "rope type 'mrope'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1], "long_factor": [1, 2]}}, "short_factor has 1"),
        ({"layer_types": ["full_attention"]}, "layer_types=.*one entry for each of 2 layers"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_window"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"num_hidden_layers": 2.5}, r"num_hidden_layers=2\.5"),
        ({"vocab_size": "many"}, "vocab_size='many'"),
        ({"vocab_size": 10**12}, "vocab_size=1000000000000"),
        ({"num_hidden_layers": 10**6}, "at most 10000"),
        ({"num_attention_heads": 10**9}, "num_attention_heads"),
        ({"num_attention_heads": 7}, "36 does not divide into 7 attention heads"),
        ({"num_key_value_heads": 2}, "9 attention heads cannot share 2 key/value heads evenly"),
        ({"rms_norm_eps": -1}, "rms_norm_eps=-1"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
        ({"rope_theta": -5}, "rope_theta=-5"),
        ({"rope_parameters": "abc"}, "rope_parameters='abc'"),
        ({"rope_parameters": {"rope_type": ["default"]}}, "rope type"),
        ({"partial_rotary_factor": 3}, "12 of 4 numbers of a head would turn"),
        ({"partial_rotary_factor": -1}, "partial_rotary_factor=-1"),
        ({"head_dim": 7}, "7 of 7 numbers of a head would turn"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor=0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1}}, "rope_theta=1 is not above 1"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": -1}}, "beta_fast=-1"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false'"),
        ({"hidden_act": ["silu"]}, "hidden_act="),
        ({"hidden_act": "x" * 5000}, r"hidden_act='x+\.\.\. "),
        ({"eos_token_id": 10**30}, "eos_token_id=1000"),
        ({"eos_token_id": True}, "eos_token_id=True"),
        ({"eos_token_id": "2"}, "eos_token_id='2'"),
        ({"vocab_size": None}, "config.json"),
    ],
)
def test_what_is_not_served_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        read_spec(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[]", '{"model_type": ', "\x00", "[" * 10**5])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_spec(tmp_path)


def test_rows_of_layers_side_by_side() -> None:
    query, key, value = side_by_side("qkv", [(4, 8), (2, 8), (2, 8)], bias=False)
    assert query.pieces(2, 4) == [(16, 32)]
    assert key.pieces(1, 2) == [(40, 48)]
    assert value.pieces(0, 2) == [(48, 64)]


def test_rows_of_interleaved_layers() -> None:
    query, key, value = interleaved("qkv", 2, [(2, 4), (1, 4), (1, 4)], bias=True)
    assert query.pieces(0, 4) == [(0, 8), (16, 24)]
    assert query.pieces(1, 3) == [(4, 8), (16, 20)]
    assert key.pieces(0, 2) == [(8, 12), (24, 28)]
    assert value.pieces(1, 2) == [(28, 32)]


def test_every_row_is_somebodys() -> None:
    for sources in (
        side_by_side("w", [(6, 4), (3, 4), (3, 2)], False),
        interleaved("w", 3, [(2, 4), (1, 4), (1, 2)], False),
    ):
        rows = [row for source in sources for piece in source.pieces(0, source.units) for row in range(*piece)]
        assert sorted(rows) == list(range(sum(source.size for source in sources)))


def test_units_of_one_feature() -> None:
    gate = Source("mlp", 6, start=1, run=1, stride=2)
    assert gate.pieces(4, 6) == [(9, 10), (11, 12)]


def test_slopes() -> None:
    assert alibi_slopes(8) == tuple(2.0**-n for n in range(1, 9))
    assert alibi_slopes(6) == (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)
