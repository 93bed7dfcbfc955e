"""Checkpoints that are not as their config.json says: told before anything is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models import Steps, needs, write_llama
from tgi_server.errors import ModelError
from tgi_server.models import tensors
from tgi_server.models.families import read_spec
from tgi_server.models.files import headers

Tensors = dict[str, Tensor]
LAYER = "model.layers.1"


def damaged(directory: Path, change: Callable[[Tensors], object], **config: object) -> str:
    """What is said of a checkpoint after a change; the loader says the same as the launcher."""
    write_llama(directory)
    file = directory / "model.safetensors"
    content = load_file(file)
    change(content)
    save_file({name: tensor.contiguous() for name, tensor in content.items()}, file)
    entries = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(entries | config))
    with pytest.raises(ModelError) as error:
        tensors.check(read_spec(directory), headers(directory))
    with pytest.raises(ModelError) as loading:
        Steps(directory, [[1, 2]], needs())
    assert str(error.value) == str(loading.value)
    return str(error.value)


def cut(name: str, *shape: slice) -> Callable[[Tensors], object]:
    return lambda content: content.update({name: content[name][shape].clone()})


@pytest.mark.parametrize(("name", "shape", "words"), [
    ("model.norm.weight", (slice(10),), "model.norm.weight has the shape [10], [64] was expected"),
    (f"{LAYER}.self_attn.o_proj.weight", (slice(32),), "o_proj.weight has the shape [32, 128], [64, 128] was expected"),
    (f"{LAYER}.mlp.down_proj.weight", (slice(None), slice(50)), "down_proj.weight has the shape [64, 50], [64, 96]"),
    (f"{LAYER}.mlp.up_proj.weight", (slice(95),), "up_proj.weight has the shape [95, 64], [96, 64] was expected"),
    ("model.embed_tokens.weight", (slice(49),), "embed_tokens.weight has the shape [49, 64], [50, 64] was expected"),
])  # fmt: skip
def test_shapes(tmp_path: Path, name: str, shape: tuple[slice, ...], words: str) -> None:
    assert words in damaged(tmp_path, cut(name, *shape))


def test_longer_tensors_and_other_types(tmp_path: Path) -> None:
    def change(content: Tensors) -> None:
        content["model.norm.weight"] = torch.ones(128)
        content[f"{LAYER}.input_layernorm.weight"] = torch.ones(64, dtype=torch.int8)

    message = damaged(tmp_path, change)
    assert "model.norm.weight has the shape [128], [64]" in message
    assert "input_layernorm.weight is of the type I8; F16, BF16, F32, F64 are served" in message


def test_all_that_is_missing_is_named(tmp_path: Path) -> None:
    gone = re.compile(r".*(mlp|layers\.1\.self_attn)")
    message = damaged(tmp_path, lambda content: [content.pop(name) for name in [*filter(gone.match, content)]])
    assert "tensor model.layers.{0..1}.mlp.up_proj.weight is missing" in message
    assert "tensor model.layers.1.self_attn.q_proj.weight is missing" in message
    assert message.count("is missing") == 3 + 4


def test_biases_that_are_not_described(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.self_attn.q_proj.bias" for layer in (0, 1)]
    message = damaged(tmp_path, lambda content: content.update({name: torch.zeros(128) for name in names}))
    wrong = "tensor model.layers.{0..1}.self_attn.q_proj.bias is there, but the layer is described without bias"
    assert message.endswith(wrong)


def test_what_is_not_used_is_told_unless_it_is_harmless(tmp_path: Path) -> None:
    write_llama(tmp_path)
    spec, infos = read_spec(tmp_path), headers(tmp_path)
    some = infos["model.norm.weight"]
    harmless = ["lm_head.weight", "layers.0.self_attn.rotary_emb.inv_freq", "h.0.attn.bias", "h.0.attn.masked_bias"]
    odd = [f"vision.blocks.{number}.{part}.weight" for part in ("a", "b") for number in (0, 1, 2, 5)]
    assert tensors.unread(spec, infos) == []
    tensors.check(spec, {**infos, **dict.fromkeys([*harmless, *odd], some)})
    told = tensors.unread(spec, {**infos, **dict.fromkeys([*harmless, *odd], some)})
    assert told == ["vision.blocks.{0..2,5}.a.weight", "vision.blocks.{0..2,5}.b.weight"]


def test_experts_are_named_together() -> None:
    names = [f"model.layers.{layer}.experts.{expert}.up.weight is missing" for layer in range(3) for expert in range(8)]
    assert tensors.condensed(names) == ["model.layers.{0..2}.experts.{0..7}.up.weight is missing"]
    assert tensors.condensed(["a.1.b", "c", "a.1.b.2"]) == ["a.1.b", "c", "a.1.b.2"]


def test_more_layers_than_counted(tmp_path: Path) -> None:
    assert "it has a layer 1, and config.json counts 1" in damaged(tmp_path, lambda _: None, num_hidden_layers=1)


def test_sizes_that_contradict_the_file(tmp_path: Path) -> None:
    assert "[50, 64] was expected" in damaged(tmp_path, lambda _: None, intermediate_size=50)
