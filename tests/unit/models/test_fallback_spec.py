"""What is refused of a model of no family before transformers looks at it, and how its description is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tgi_server.cache.kinds import CacheGroup, CacheKind
from tgi_server.config.schema import DType, ServerConfig
from tgi_server.errors import ConfigError, ModelError
from tgi_server.models import adapter, tensors
from tgi_server.models.check import check_memory, described
from tgi_server.models.fallback.spec import FallbackSpec, Layer, parsed
from tgi_server.models.families import read_spec
from tgi_server.models.files import TensorInfo
from tgi_server.quantize.none import NoQuantize

SPEC = FallbackSpec(
    vocab_size=10, hidden_size=8, max_positions=4096, directory="elsewhere",
    layers_seen=(Layer(0, 2, 24, 16, None), Layer(1, 2, 16, 16, 64), Layer(3, 1, 16, 16, None)),
)  # fmt: skip


def written(directory: Path, **entries: Any) -> Path:
    (directory / "config.json").write_text(json.dumps({"model_type": "cohere2", "eos_token_id": [3, 4], **entries}))
    return directory


def never(directory: Path) -> str:
    raise AssertionError("nobody is to be asked")


def test_what_is_told_is_what_was_found(tmp_path: Path) -> None:
    spec = parsed(SPEC.text, written(tmp_path))
    assert (spec.layers_seen, spec.max_positions, spec.eos_token_ids) == (SPEC.layers_seen, 4096, (3, 4))
    assert spec.directory == str(tmp_path)
    assert spec.groups == (CacheGroup(CacheKind.FULL), CacheGroup(CacheKind.WINDOW, 64))
    assert spec.group_of == (0, 1, 0)
    assert spec.block_bytes(0, 1, 2) == 16 * 2 * (2 * (24 + 16) + 32)


def test_only_models_of_no_family_are_asked_for(tmp_path: Path) -> None:
    spec = described(written(tmp_path), ServerConfig(), 1, DType.float32, lambda directory: SPEC.text)
    assert isinstance(spec, FallbackSpec)
    with pytest.raises(ModelError, match="missing or bad entry"):
        described(written(tmp_path, model_type="llama"), ServerConfig(), 1, DType.float32, never)


@pytest.mark.parametrize(("entries", "message"), [
    ({"num_hidden_layers": 1_000_000}, r"num_hidden_layers=1000000 \(at most 10000\)"),
    ({"vocab_size": 10**12}, r"vocab_size=1000000000000 \(at most 100000000\)"),
    ({"model_type": ["x"]}, r"model_type=\['x'\] is no name"),
    ({"vision_config": {"a": 1}}, r"reads more than text \(vision_config\), which is not served"),
    ({"audio_config": {"a": 1}}, r"reads more than text \(audio_config\)"),
    ({"quantization_config": {"quant_method": "fp8"}}, r"weights are quantised already \(quantization_config, fp8\)"),
])  # fmt: skip
def test_what_config_json_alone_tells(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        described(written(tmp_path, **entries), ServerConfig(), 1, DType.float32, never)


def test_options_that_only_families_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        described(written(tmp_path), ServerConfig(rope_factor=2.0), 2, DType.float32, never)
    assert str(caught.value) == (
        "num_shard=2: model_type 'cohere2' is computed by transformers' own module, which cannot be split; num_shard=1 "
        "works; rope_scaling, rope_factor: model_type 'cohere2' is computed by transformers' own module, whose "
        "positions are those of its config.json; leave them out"
    )
    with pytest.raises(ConfigError, match="max_total_tokens=4097 is more than the 4096 positions"):
        described(written(tmp_path), ServerConfig(max_total_tokens=4097), 1, DType.float32, lambda _: SPEC.text)


def test_memory_counts_every_tensor_where_their_names_are_not_known(tmp_path: Path) -> None:
    found = {"any.name": TensorInfo(tmp_path, "BF16", (1 << 20,), 0, 2 << 20)}
    tensors.check(SPEC, found)
    options = ServerConfig(max_total_tokens=16, max_input_length=8)
    check_memory(SPEC, options, found, DType.bfloat16, NoQuantize(), 3 << 20)
    with pytest.raises(ConfigError, match="does not fit"):
        check_memory(SPEC, options, found, DType.bfloat16, NoQuantize(), 2 << 20)


def adapter_of(directory: Path, tensors: dict[str, Tensor], **entries: Any) -> Path:
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    own = {"peft_type": "LORA", "base_model_name_or_path": "x/y", "r": 2, "lora_alpha": 2, **entries}
    (directory / "adapter_config.json").write_text(json.dumps(own))
    return directory


def test_what_cannot_be_merged_into_a_module_of_transformers(tmp_path: Path) -> None:
    """Token vectors that are the head, too, and matrices of which nothing says how they lie."""
    base = written(tmp_path)
    save_file({"model.layers.0.q.weight": torch.zeros(8, 8), "model.embed_tokens.weight": torch.zeros(10, 8)},
              base / "model.safetensors")  # fmt: skip
    spec = replace(SPEC, directory=str(base), head_of="other.model.embed_tokens.weight")
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    vectors = {f"{name}A": torch.zeros(2, 10), f"{name}B": torch.zeros(8, 2)}
    with pytest.raises(ModelError, match=r"model\.embed_tokens\.weight is the head, too"):
        adapter.read(adapter_of(tmp_path / "vectors", vectors), spec)
    assert adapter.read(tmp_path / "vectors", replace(spec, head_of=None)).changes
    layer = "base_model.model.model.layers.0.q.lora_"
    square = {f"{layer}A.weight": torch.zeros(2, 8), f"{layer}B.weight": torch.zeros(8, 2)}
    with pytest.raises(ModelError, match="fan_in_fan_out"):
        adapter.read(adapter_of(tmp_path / "turned", square, fan_in_fan_out=True), spec)
    assert adapter.read(adapter_of(tmp_path / "straight", square), spec).changes


def test_a_tied_head_of_other_kinds_parts_from_its_vectors_or_is_refused(tmp_path: Path) -> None:
    mamba = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(mamba))
    spec = read_spec(tmp_path)
    own = adapter_of(tmp_path / "mamba", {"base_model.model.backbone.embeddings.weight": torch.zeros(16, 16)})
    changed = adapter.read(own, spec)
    assert spec.tied == "embeddings.weight" and changed.spec.tied is None
    assert "lm_head.weight" in dict(changed.spec.tensors())
    t5 = {"model_type": "t5", "d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 4, "vocab_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(t5))
    own = adapter_of(tmp_path / "t5", {"base_model.model.shared.weight": torch.zeros(16, 16)})
    with pytest.raises(ModelError, match=r"shared\.weight is the head, too"):
        adapter.read(own, read_spec(tmp_path))


def test_memory_counts_the_states_of_all_requests(tmp_path: Path) -> None:
    mamba = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(mamba))
    spec = read_spec(tmp_path)
    free = 3 * spec.block_bytes(0, 1, 4)
    check_memory(spec, ServerConfig(max_concurrent_requests=3), {}, DType.float32, NoQuantize(), free)
    with pytest.raises(ConfigError, match=r"with the states of 4 texts \(max_concurrent_requests\)$"):
        check_memory(spec, ServerConfig(max_concurrent_requests=4), {}, DType.float32, NoQuantize(), free)
