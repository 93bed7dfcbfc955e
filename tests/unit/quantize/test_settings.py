"""What checkpoints say of themselves, wherever they say it; which method reads them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tgi_server.errors import ConfigError, ModelError
from tgi_server.models.files import numbers
from tgi_server.quantize import settings
from tgi_server.quantize.awq import Awq
from tgi_server.quantize.base import Activations
from tgi_server.quantize.eetq import Eetq
from tgi_server.quantize.gptq import Gptq
from tgi_server.quantize.packed.layouts import AwqLayout, CompressedLayout, GptqLayout, Packed
from tgi_server.quantize.pick import asked_for
from tgi_server.quantize.settings import Settings

EXACT = Activations.exact
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "actorder": None}
GROUP = {"targets": ["Linear"], "weights": WEIGHTS, "input_activations": None}


def said(directory: Path) -> Settings | None:
    return settings.read(directory, numbers(directory, settings.TENSORS))


def of(entries: dict[str, Any]) -> Settings:
    return Settings("config.json: quantization_config", entries)


def compressed(weights: dict[str, Any] | None = None, group: dict[str, Any] | None = None, **more: Any) -> Settings:
    own = GROUP | {"weights": WEIGHTS | (weights or {})} | (group or {})
    entries = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": own}}
    return of(entries | more)


GPTQ = GptqLayout(4, 32, True, EXACT, less=1)
AWQ = AwqLayout(4, 32, True, EXACT)
FOUND: dict[str, tuple[str, Any, Packed]] = {
    "config.json": (
        "config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}},
        GPTQ,
    ),
    "quantize_config.json": ("quantize_config.json", {"bits": 4, "group_size": 32, "sym": False}, GPTQ),
    "quantize_config.json, GEMM": (
        "quantize_config.json", {"w_bit": 4, "q_group_size": 32, "version": "GEMM", "zero_point": True}, AWQ,
    ),
    "quant_config.json": ("quant_config.json", {"w_bit": 4, "q_group_size": 32, "version": "GEMM"}, AWQ),
    "quant_config.json, gptq": ("quant_config.json", {"w_bit": 4, "q_group_size": 32, "sym": False}, GPTQ),
    "compression_config": (
        "config.json", {"compression_config": dict(compressed().entries)}, CompressedLayout(4, 32, False, EXACT, False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_every_place(tmp_path: Path, case: str) -> None:
    file, content, layout = FOUND[case]
    (tmp_path / file).write_text(json.dumps(content))
    found = said(tmp_path)
    assert found is not None
    assert Gptq().reader(found) == Awq().reader(found) == asked_for(found)().reader(found) == layout


def test_tensors_of_one_number_come_first(tmp_path: Path) -> None:
    tensors = {"gptq_bits": torch.tensor([4]), "gptq_groupsize": torch.tensor(32, dtype=torch.int32)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert Gptq().reader(said(tmp_path)) == GPTQ
    others = {"quant_method": "gptq", "bits": 8, "group_size": 64, "sym": False, "checkpoint_format": "gptq_v2"}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": others}))
    assert Gptq().reader(said(tmp_path)) == GptqLayout(4, 32, True, EXACT, less=0)


@pytest.mark.parametrize("tensor", [torch.tensor([4, 4]), torch.tensor(4.0)])
def test_tensors_that_hold_no_whole_number_tell_nothing(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_file({"gptq_bits": tensor}, tmp_path / "model.safetensors")
    assert said(tmp_path) is None


def test_a_directory_that_tells_nothing(tmp_path: Path) -> None:
    assert said(tmp_path) is None
    for method in (Gptq(), Awq()):
        with pytest.raises(ConfigError) as error:
            method.reader(None)
        for words in (
            "gptq_bits",
            "quantization_config in config.json",
            "quant_config.json",
            "NAME.qweight",
            "group_size",
        ):
            assert words in str(error.value)
    assert Gptq(bits=3, group_size=-1).reader(None) == GptqLayout(3, -1, False, EXACT, less=1)
    assert Awq(group_size=64).reader(None) == AwqLayout(4, 64, False, EXACT)


MEANT: list[tuple[Settings, Packed]] = [
    (of({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}),
     GptqLayout(4, 32, False, EXACT, less=0)),
    (of({"quant_method": "GPTQ", "bits": 8, "group_size": -1, "format": "gptq", "sym": True, "desc_act": True,
         "dynamic": {"-:lm_head": {}, "+:mlp": {"bits": 8}}}),
     GptqLayout(8, -1, False, EXACT, less=1)),
    (of({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": False}),
     AwqLayout(4, 32, False, EXACT)),
    (of({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 32,
         "extra_config": {"model.lm_head": {"bits": 16}}}),
     GptqLayout(4, 32, False, EXACT, less=1)),
    (of({"quant_method": "auto-round", "packing_format": "auto_round:gptqmodel", "bits": 2, "group_size": 64}),
     GptqLayout(2, 64, False, EXACT, less=0)),
    (of({"quant_method": "auto-round", "packing_format": "auto_round", "bits": 4, "group_size": 32, "sym": False}),
     GptqLayout(4, 32, True, EXACT, less=0)),
    (of({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 32}),
     AWQ),
    (compressed({"strategy": "channel", "group_size": None, "num_bits": 8}),
     CompressedLayout(8, -1, False, EXACT, False)),
    (compressed({"symmetric": False, "actorder": "group"}), CompressedLayout(4, 32, True, EXACT, True)),
    (compressed({"actorder": "weight"}), CompressedLayout(4, 32, False, EXACT, False)),
    (compressed(None, {"format": "pack-quantized"}, format="mixed-precision", kv_cache_scheme={"num_bits": 8}),
     CompressedLayout(4, 32, False, EXACT, False)),
]  # fmt: skip


@pytest.mark.parametrize(("own", "layout"), MEANT)
def test_both_methods_read_what_the_checkpoint_says(own: Settings, layout: Packed) -> None:
    assert Gptq().reader(own) == Awq().reader(own) == asked_for(own)().reader(own) == layout
    assert Gptq(bits=layout.bits, group_size=layout.group_size).reader(own) == layout


def test_activations_are_the_operator_s(tmp_path: Path) -> None:
    own = of({"quant_method": "awq", "bits": 4, "group_size": 32})
    assert Gptq(activations=Activations.int8).reader(own) == AwqLayout(4, 32, True, Activations.int8)


BASE = {"quant_method": "gptq", "bits": 4, "group_size": 32}
ROUND = BASE | {"quant_method": "auto-round"}
REFUSED: list[tuple[Settings, str]] = [
    (of(BASE | {"bits": 5}), r"bits=5 \(config.json: quantization_config\) is not served by gptq; served: 2, 3, 4, 8"),
    (of(BASE | {"quant_method": "awq", "bits": 8}), r"bits=8 .* is not served by awq; served: 4"),
    (of(BASE | {"group_size": 0}), r"group_size=0 .* means nothing"),
    (of(BASE | {"checkpoint_format": "marlin"}),
     r"checkpoint_format 'marlin' \(gptq\) is not served; served: gptq, gptq_v2$"),
    (of(BASE | {"is_marlin_format": True}), r"checkpoint_format 'marlin'"),
    (of(BASE | {"dynamic": {"+:mlp": {"bits": 8}}}), r"dynamic with settings of \+:mlp alone"),
    (of(BASE | {"lm_head": True}), r"a quantised lm_head"),
    (of(BASE | {"quant_method": "awq", "version": "GEMV"}), r"version 'gemv' \(awq\) is not served; served: gemm"),
    (of(BASE | {"quant_method": "awq", "backend": "llm-awq"}), r"version 'llm-awq'"),
    (of(ROUND | {"extra_config": {"model.x": {"bits": 8}}}), r"extra_config with settings of model.x alone"),
    (compressed(format="float-quantized"), r"the format 'float-quantized' .* served: pack-quantized"),
    (compressed(format=["pack-quantized"]), r"the format \"\['pack-quantized'\]\" .* served: pack-quantized"),
    (compressed({"strategy": "tensor"}), r"weights of the strategy 'tensor'.*served: group, channel"),
    (compressed({"type": "float"}), r"weights of the type 'float'"),
    (compressed(None, {"input_activations": {"num_bits": 8}}), r"input_activations"),
    (compressed(transform_config={"config_groups": {"R4": {"type": "hadamard"}}}), r"transform_config .* not rotated"),
    (compressed(config_groups={"a": GROUP, "b": GROUP | {"weights": WEIGHTS | {"num_bits": 8}}}), r"weights differ"),
    (compressed(config_groups={"W4A16": ["Linear"]}), r"config_groups without weights"),
    (compressed({"group_size": None}), r"the checkpoint does not tell group_size"),
]  # fmt: skip


@pytest.mark.parametrize(("own", "words"), REFUSED)
def test_what_is_not_served_is_refused_in_a_line(own: Settings, words: str) -> None:
    for method in (Gptq(), Awq()):
        with pytest.raises(ConfigError, match=words) as error:
            method.reader(own)
        assert "\n" not in str(error.value) and own.place in str(error.value)


@pytest.mark.parametrize("entries", [
    {"quant_method": "fp8"}, ROUND | {"packing_format": "auto_round:fp8_static"}, {"quant_method": "quip"},
])  # fmt: skip
def test_methods_of_others(entries: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="are not served"):
        asked_for(of(entries))
    with pytest.raises(ModelError, match="are not served"):
        Gptq().reader(of(entries))


def test_options_may_not_contradict_the_checkpoint() -> None:
    with pytest.raises(
        ConfigError, match=r"quantize\.bits=8: the checkpoint says 4 \(config\.json: .*\); leave it out"
    ):
        Gptq(bits=8).reader(of(BASE))
    with pytest.raises(ConfigError, match=r"quantize\.group_size=64: the checkpoint says 32"):
        Awq(group_size=64).reader(of(BASE))
    with pytest.raises(ConfigError, match="quantize=eetq needs weights that are not quantised"):
        Eetq().reader(of(BASE))


@pytest.mark.parametrize(("content", "words"), [
    ("[]", "does not hold a JSON object"), ("{", "cannot be read"), ('{"quantization_config": 4}', "JSON object"),
    ('{"quantization_config": {"quant_method": "gptq", "bits": "4"}}', 'bits is "4", not a whole number'),
])  # fmt: skip
def test_files_that_cannot_be_meant(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=words):
        Gptq().reader(said(tmp_path))
