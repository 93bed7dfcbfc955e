"""Every type that tensors of a GGUF file can have: what it widens to, in pieces and in the order that is wanted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.gguf_models import ORIGINALS, Array, permuted
from tgi_server.config.schema import DType
from tgi_server.errors import ModelError
from tgi_server.launcher.gguf import tensors
from tgi_server.launcher.gguf.convert import convert

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
"""A block of the widest types is 256 numbers of a row."""


def ignore(stage: str, fraction: float) -> None:
    pass


def widens(kind: Kind) -> bool:
    """Whether the package decodes a type; F64 needs no decoding."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return bool(kind == Kind.F64)
    return True


QUANTISED = [kind for kind in Kind if GGML_QUANT_SIZES[kind][0] > 1 and widens(kind)]
OTHERS = [kind for kind in Kind if not widens(kind)]


def blocks(kind: Kind, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Random bytes, of which every block is numbers: a stand-in for quantisers, which the package mostly lacks."""
    values, size = GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(kind.value)
    found = random.integers(0, 256, (300, size), np.uint8)
    with np.errstate(all="ignore"):
        numbers = dequantize(found, kind)
    found = found[(np.isfinite(numbers) & (abs(numbers) < 1e4)).all(1)]
    count = int(np.prod(shape)) // values
    return np.resize(found, (count, size)).reshape(*shape[:-1], -1)


def stored(kind: Kind) -> Any:
    """Matrices in random blocks of a type; `raw` keeps what they are."""
    raw: dict[str, NDArray[np.uint8]] = {}

    def store(name: str, values: Array) -> tuple[NDArray[Any], Kind]:
        if values.ndim == 1:
            return values, Kind.F32
        raw[name] = blocks(kind, values.shape)
        return raw[name], kind

    return store, raw


@pytest.fixture(scope="module")
def llama() -> Any:
    numbers = {**ORIGINALS["llama"].numbers, **WIDE, "head_dim": 64}
    return type(ORIGINALS["llama"])("llama", "LlamaConfig", numbers, ORIGINALS["llama"].change)


@pytest.fixture(scope="module")
def model(llama: Any) -> Any:
    return llama.make()


def converted(source: Path) -> Path:
    directory = source.with_suffix(".converted")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    convert(source, directory, DType.float32, ignore)
    return directory


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_quantised_types(kind: Kind, llama: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_CHUNK", 256 * 60)  # several pieces, of which the last is shorter
    store, raw = stored(kind)
    after = load_file(converted(llama.write(tmp_path / "tiny.gguf", model, store)) / "model.safetensors")
    layer = "model.layers.0"
    for theirs, ours, heads in (
        ("blk.0.attn_q", f"{layer}.self_attn.q_proj", 4), ("blk.0.attn_k", f"{layer}.self_attn.k_proj", 2),
        ("blk.0.ffn_down", f"{layer}.mlp.down_proj", 0), ("token_embd", "model.embed_tokens", 0),
    ):  # fmt: skip
        right = dequantize(raw[f"{theirs}.weight"], kind)
        values = after[f"{ours}.weight"]
        assert np.array_equal(permuted(values, heads) if heads else values, right)


def test_every_type_is_told_apart() -> None:
    assert {"Q4_0", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "IQ4_XS", "IQ2_XXS", "TQ1_0", "MXFP4"} <= {
        kind.name for kind in QUANTISED
    }


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
def test_what_cannot_be_widened_is_refused_before_anything_is_written(
    kind: Kind, llama: Any, model: Any, tmp_path: Path
) -> None:
    values, size = GGML_QUANT_SIZES[kind]
    plain = {Kind.I8: np.int8, Kind.I16: np.int16, Kind.I32: np.int32, Kind.I64: np.int64}

    def store(name: str, tensor: Array) -> tuple[NDArray[Any], Kind]:
        if name != "blk.0.ffn_up.weight":
            return tensor, Kind.F32
        if kind in plain:
            return tensor.astype(plain[kind]), kind
        return np.zeros((tensor.shape[0], tensor.shape[1] // values * size), np.uint8), kind

    source = llama.write(tmp_path / "tiny.gguf", model, store)
    with pytest.raises(ModelError, match=f"of the type {kind.name} cannot be converted: 'blk.0.ffn_up.weight'$"):
        converted(source)
    assert list((tmp_path / "tiny.converted").iterdir()) == []


def test_a_type_of_the_future_is_refused(llama: Any, model: Any, tmp_path: Path) -> None:
    source = llama.write(tmp_path / "tiny.gguf", model)
    content = bytearray(source.read_bytes())
    place = content.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 2 * 8
    content[place : place + 4] = (999).to_bytes(4, "little")
    source.write_bytes(content)
    with pytest.raises(ModelError, match=r"the tensor 'blk\.0\.ffn_up\.weight' is of the unknown type 999"):
        converted(source)


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q8_0, Kind.MXFP4], ids=lambda kind: kind.name)
def test_matrices_that_are_turned(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's are stored the other way round, and cut where blocks begin."""
    monkeypatch.setattr(tensors, "_CHUNK", 300 * 256)
    original = ORIGINALS["gpt2"]
    gpt2 = type(original)("gpt2", "GPT2Config", {**original.numbers, "n_embd": 512, "n_layer": 1}, original.change)
    store, raw = stored(kind)
    after = load_file(converted(gpt2.write(tmp_path / "tiny.gguf", gpt2.make(), store)) / "model.safetensors")
    for theirs, ours in (("attn_qkv", "attn.c_attn"), ("ffn_down", "mlp.c_proj")):
        right = dequantize(raw[f"blk.0.{theirs}.weight"], kind)
        assert np.array_equal(after[f"transformer.h.0.{ours}.weight"], right.T)


def test_several_types_in_one_tensor(tmp_path: Path) -> None:
    """gpt-oss's gate and up, of which each has its own, become one."""
    original = ORIGINALS["gpt-oss"]
    numbers = {**original.numbers, "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 1,
               "layer_types": ["sliding_attention"]}  # fmt: skip
    oss = type(original)("gpt-oss", "GptOssConfig", numbers, original.change, lambda config: {
        **original.metadata(config), "{arch}.expert_feed_forward_length": 64})  # fmt: skip
    kinds = {"blk.0.ffn_gate_exps.weight": Kind.MXFP4, "blk.0.ffn_up_exps.weight": Kind.Q4_K}
    raw = {name: blocks(kind, (4, 64, 256)) for name, kind in kinds.items()}

    def store(name: str, values: Array) -> tuple[NDArray[Any], Kind]:
        return (raw[name], kinds[name]) if name in kinds else (values, Kind.F32)

    after = load_file(converted(oss.write(tmp_path / "tiny.gguf", oss.make(), store)) / "model.safetensors")
    joined = after["model.layers.0.mlp.experts.gate_up_proj"]
    for first, name in enumerate(kinds):
        assert np.array_equal(joined[:, :, first::2], dequantize(raw[name], kinds[name]).swapaxes(1, 2))


def test_other_plain_numbers(llama: Any, model: Any, tmp_path: Path) -> None:
    kinds = {"blk.0.ffn_up.weight": (Kind.F64, np.float64), "blk.0.ffn_gate.weight": (Kind.F16, np.float16)}

    def store(name: str, values: Array) -> tuple[NDArray[Any], Kind]:
        if name in kinds:
            return values.astype(kinds[name][1]), kinds[name][0]
        return values, Kind.F32

    after = load_file(converted(llama.write(tmp_path / "tiny.gguf", model, store)) / "model.safetensors")
    before = load_file(tmp_path / "tiny" / "model.safetensors")
    assert np.array_equal(after["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])
    assert np.allclose(
        after["model.layers.0.mlp.gate_proj.weight"], before["model.layers.0.mlp.gate_proj.weight"], atol=1e-3
    )
