"""Every architecture: a tiny random model of transformers, written as llama.cpp would, is the same model again."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGMLQuantizationType, Keys
from numpy.typing import NDArray
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from tests.families.harness import TOLERANCE, generate
from tests.gguf_models import ORIGINALS, SMALL, VOCABULARY, Array
from tests.models import needs
from tests.unit.launcher.test_gguf_types import widens
from tgi_server.config.schema import DType
from tgi_server.errors import ModelError
from tgi_server.launcher.gguf import byte_level, tokenizer
from tgi_server.launcher.gguf.architectures import architectures
from tgi_server.launcher.gguf.convert import convert
from tgi_server.launcher.gguf.describe import describe
from tgi_server.launcher.gguf.reader import GgufFile
from tgi_server.models.families import families
from tgi_server.models.tensors import found


def ignore(stage: str, fraction: float) -> None:
    pass


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_model_comes_out_as_it_went_in(name: str, tmp_path: Path) -> None:
    original = ORIGINALS[name]
    model = original.make()
    source = original.write(tmp_path / "tiny.gguf", model)
    directory = tmp_path / "converted"
    directory.mkdir()
    convert(source, directory, DType.float32, ignore)

    before, after = load_file(tmp_path / "tiny" / "model.safetensors"), load_file(directory / "model.safetensors")
    assert len(after) == len(before)
    for tensor, values in after.items():
        right = before[found(tensor, ("transformer.",), before) or tensor]
        assert np.allclose(values, right, rtol=0, atol=1e-6), tensor
    prompt = [int(id) for id in torch.randint(2, VOCABULARY, (37,), generator=torch.Generator().manual_seed(1))]
    with torch.inference_mode():
        right = model(torch.tensor([prompt]), use_cache=False).logits[0]
        again = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
        assert (again(torch.tensor([prompt]), use_cache=False).logits[0] - right).abs().max() <= 1e-5
    if again.config.model_type in families():
        _, scores = generate(directory, [prompt], needs(), recorded=False, new_tokens=1)
        assert (scores[0][0] - right[-1]).abs().max() <= TOLERANCE * right[-1].abs().max()


def test_each_architecture_is_tested() -> None:
    assert {original.architecture for original in ORIGINALS.values()} | {"baichuan"} == set(architectures())
    assert set(architectures()) <= set(MODEL_ARCH_NAMES.values())


@pytest.mark.parametrize("name", ["mistral", "gemma2", "bloom"])
def test_the_files_here_are_what_transformers_reads(name: str, tmp_path: Path) -> None:
    """The reader of transformers undoes the same changes of the converter."""
    model = ORIGINALS[name].make()
    ORIGINALS[name].write(tmp_path / "tiny.gguf", model)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).state_dict()
    for tensor, values in model.state_dict().items():
        torch.testing.assert_close(theirs[tensor], values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", [2, 40])
def test_baichuan(layers: int, tmp_path: Path) -> None:
    """transformers has no Baichuan; its files are those of a Llama, its checkpoints have fused matrices."""
    model = replace(ORIGINALS["llama"], numbers={**SMALL, "num_hidden_layers": layers, "num_key_value_heads": 4}).make()
    source = replace(ORIGINALS["llama"], architecture="baichuan").write(tmp_path / "tiny.gguf", model)
    directory = tmp_path / "converted"
    directory.mkdir()
    convert(source, directory, DType.float32, ignore)
    before, after = load_file(tmp_path / "tiny" / "model.safetensors"), load_file(directory / "model.safetensors")
    start = "model.layers.1.self_attn"
    fused = np.concatenate([before.pop(f"{start}.{which}_proj.weight") for which in "qkv"])
    assert np.array_equal(after.pop(f"{start}.W_pack.weight"), fused)
    assert np.array_equal(after[f"{start}.o_proj.weight"], before[f"{start}.o_proj.weight"])
    config = json.loads((directory / "config.json").read_text())
    assert config["model_type"] == "baichuan"
    assert ("model_max_length" in config, "max_position_embeddings" in config) == (layers == 40, layers != 40)


@pytest.mark.parametrize(("width", "factor"), [(128, 8.0), (64, 32.0)])
def test_the_scaling_of_llama_3_is_found_again(width: int, factor: float, tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    numbers = {**ORIGINALS["llama 3"].numbers, "head_dim": width, "rope_parameters": scaling}
    original = replace(ORIGINALS["llama 3"], numbers=numbers)
    described = describe(GgufFile(original.write(tmp_path / "tiny.gguf", original.make())), DType.float32)
    assert described.config["rope_parameters"] == scaling


REFUSED: dict[str, tuple[str, dict[str, object], str]] = {
    "another scaling": ("llama 3", {"{arch}.rope.freq_base": 20000.0}, "is not the scaling of Llama 3"),
    "value never asked for": ("llama", {"{arch}.attention.clamp_kqv": 6.0}, r"not served with: llama\.att.*=6\.0"),
    "another gating": ("qwen3moe", {"{arch}.expert_gating_func": 2}, r"expert_gating_func is 2 \(1 is served\)"),
    "no window": ("gemma3", {"{arch}.attention.sliding_window": None}, r"gemma3\.attention\.sliding_window is missing"),
    "learned positions": ("mpt", {"{arch}.attention.max_alibi_bias": 0.0}, "MPT is served with linear biases"),
    "clipped": ("mpt", {"{arch}.attention.clamp_kqv": 6.0}, "missing or bad entry clip_qkv=6.0"),
    "clipped OLMo": ("olmo", {"{arch}.attention.clamp_kqv": 8.0}, "missing or bad entry clip_qkv=8.0"),
    "vocabulary": ("llama", {"{arch}.vocab_size": 99}, "it counts 99 tokens, and has 101 token vectors"),
    "layers differ": ("llama", {"{arch}.attention.head_count_kv": [2, 4]}, "differs between layers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    name, metadata, message = REFUSED[case]
    source = ORIGINALS[name].write(tmp_path / "tiny.gguf", ORIGINALS[name].make(), metadata=metadata)
    with pytest.raises(ModelError, match=message) as caught:
        describe(GgufFile(source), DType.float32)
    assert str(caught.value).startswith(str(source))
    assert "\n" not in str(caught.value)


def k_blocks(kind: GGMLQuantizationType, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Random blocks of small numbers."""
    _, size = GGML_QUANT_SIZES[kind]
    found = np.random.default_rng(0).integers(0, 256, (*shape[:-1], shape[-1] // 256, size), np.uint8)
    scales = {GGMLQuantizationType.Q4_K: [(0, 5e-4), (2, 4e-3)], GGMLQuantizationType.Q6_K: [(size - 2, 3e-5)]}
    for place, scale in scales[kind]:
        found[..., place : place + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return found.reshape(*shape[:-1], -1)


def test_a_mixture_of_types(tmp_path: Path) -> None:
    """Q4_K_M: most matrices Q4_K, values, down and head Q6_K. transformers reads the same file."""
    numbers = {**ORIGINALS["llama"].numbers, "hidden_size": 256, "intermediate_size": 256, "head_dim": 64,
               "attention_bias": False, "mlp_bias": False}  # fmt: skip
    original = replace(ORIGINALS["llama"], numbers=numbers)

    def store(name: str, values: Array) -> tuple[NDArray[Any], GGMLQuantizationType]:
        if values.ndim == 1:
            return values, GGMLQuantizationType.F32
        finer = name.endswith(("attn_v.weight", "ffn_down.weight")) or name == "output.weight"
        kind = GGMLQuantizationType.Q6_K if finer else GGMLQuantizationType.Q4_K
        return k_blocks(kind, values.shape), kind

    width = {"{arch}.rope.dimension_count": 64}
    source = original.write(tmp_path / "tiny.gguf", original.make(), store, width)
    directory = tmp_path / "converted"
    directory.mkdir()
    convert(source, directory, DType.float32, ignore)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=source.name, dtype=torch.float32)
    prompt = list(range(2, 40))
    with torch.inference_mode():
        right = theirs(torch.tensor([prompt]), use_cache=False).logits[0, -1]
    _, scores = generate(directory, [prompt], needs(), recorded=False, new_tokens=1)
    assert right.abs().max() > 0.1
    assert (scores[0][0] - right).abs().max() <= TOLERANCE * right.abs().max()


def test_impossible_metadata_never_end_in_another_error(tmp_path: Path) -> None:
    """In every architecture each value is replaced by another one."""
    generator = random.Random(0)
    values = [None, 0, 1, 3, 2**31, 2**63, -1, "x", -1.5, math.nan, math.inf, [], [1, 2], ["a"], True, False]
    for number, original in enumerate(ORIGINALS.values()):
        file = GgufFile(original.write(tmp_path / f"{number}.gguf", original.make()))
        whole = file.metadata
        for key in whole.keys() - {Keys.General.ARCHITECTURE}:
            value = generator.choice(values)
            file.metadata = {**whole, key: value}
            try:
                describe(file, DType.float32)
                tokenizer.build(file)
            except ModelError as error:
                assert "\n" not in str(error)


def test_what_the_documentation_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gguf.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([^`]+)`", text))
    types = {kind.name for kind in GGMLQuantizationType if widens(kind)}
    assert types | set(architectures()) | set(byte_level.STYLES) <= told
