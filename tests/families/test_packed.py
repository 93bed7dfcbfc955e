"""Whole models whose linear layers are packed: their logits are those of the same weights as plain matrices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.families.harness import TOLERANCE, Generated, Reference, generate
from tests.families.test_llama import SMALL
from tests.models import needs
from tests.unit.quantize.checkpoints import Layer
from tgi_server.errors import ConfigError, ModelError
from tgi_server.models.families import read_spec
from tgi_server.models.load import load_model
from tgi_server.quantize.awq import Awq
from tgi_server.quantize.base import QuantizeMethod
from tgi_server.quantize.gptq import Gptq

PROMPTS = [[5, 17, 93, 2, 44, 8, 21], [3], [60] * 20]
TOKENS = 4
Spell = Callable[[Layer], dict[str, Tensor]]


class Small(Reference):
    config = "LlamaConfig"
    numbers = SMALL | {"hidden_size": 64, "intermediate_size": 192}


def pack(directory: Path, spell: Spell, act_order: bool, settings: object) -> Path:
    """The checkpoint with random packed layers, under `packed`, and as plain matrices, under `plain`."""
    Small.save(directory)
    tensors = load_file(directory / "model.safetensors")
    packed, plain = dict(tensors), dict(tensors)
    for number, name in enumerate(name for name in tensors if name.endswith("proj.weight")):
        outputs, inputs = tensors[name].shape
        seed = number // 7 if act_order else number  # layers with the same inputs have one order
        layer = Layer(outputs, inputs, 4, 32, act_order=act_order, seed=seed)
        layer.scale /= 16
        del packed[name]
        packed |= {f"{name.removesuffix('weight')}{suffix}": own for suffix, own in spell(layer).items()}
        plain[name] = layer.dense()
    config = json.loads((directory / "config.json").read_text())
    for kind, own, more in (("packed", packed, {"quantization_config": settings}), ("plain", plain, {})):
        (directory / kind).mkdir()
        save_file(own, directory / kind / "model.safetensors")
        (directory / kind / "config.json").write_text(json.dumps(config | more))
    return directory


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32, "actorder": "group"}
COMPRESSED = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"all": {"weights": WEIGHTS}},
}  # fmt: skip
CASES: dict[str, tuple[Spell, bool, object, QuantizeMethod | None]] = {
    "gptq": (Layer.gptq, True, GPTQ, Gptq()),
    "gptq read by awq": (Layer.gptq, False, GPTQ, Awq()),
    "awq": (Layer.awq, False, AWQ, None),
    "awq read by gptq": (Layer.awq, False, AWQ, Gptq()),
    "compressed": (Layer.compressed, True, COMPRESSED, None),
}


def close(got: Generated, expected: Generated) -> None:
    assert got[0] == expected[0]
    for scores, right in zip(got[1], expected[1], strict=True):
        assert (scores - right).abs().max() <= TOLERANCE * right.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_logits(tmp_path: Path, case: str) -> None:
    spell, act_order, settings, method = CASES[case]
    directory = pack(tmp_path, spell, act_order, settings)
    expected = generate(directory / "plain", PROMPTS, needs(), new_tokens=TOKENS)
    for world in (1, 3):
        of = needs(plain=world == 3)
        got = generate(directory / "packed", PROMPTS, of, world, new_tokens=TOKENS, quantize=method)
        close(got, expected)


def load(directory: Path, method: QuantizeMethod | None = None) -> None:
    load_model(directory, read_spec(directory), needs(), 32, method)


def test_damaged_layers_are_all_named(tmp_path: Path) -> None:
    directory = pack(tmp_path, Layer.gptq, False, GPTQ) / "packed"
    tensors = load_file(directory / "model.safetensors")
    layer = "model.layers.1.mlp"
    del tensors[f"{layer}.up_proj.scales"]
    tensors[f"{layer}.gate_proj.qzeros"] = tensors[f"{layer}.gate_proj.qzeros"][:1].contiguous()
    tensors[f"{layer}.down_proj.qweight"] = tensors[f"{layer}.down_proj.qweight"].float()
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ModelError) as error:
        load(directory)
    for words in (
        "model.layers.1.mlp.up_proj.scales is missing",
        "model.layers.1.mlp.gate_proj.qzeros has the shape [1, 24], [2, 24] was expected",
        "model.layers.1.mlp.down_proj.qweight is of the type F32; I32 are served",
    ):
        assert words in str(error.value)


def test_a_checkpoint_that_is_not_quantised(tmp_path: Path) -> None:
    Small.save(tmp_path)
    with pytest.raises(ConfigError, match=r"quantize=gptq: the checkpoint does not tell bits and group_size"):
        load(tmp_path, Gptq())
    with pytest.raises(
        ModelError, match=r"no quantised layer; it would have tensors such as .*q_proj\.qweight, .*scales"
    ):
        load(tmp_path, Gptq(bits=4, group_size=32))
